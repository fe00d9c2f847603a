"""Mean, deviation and quartiles of cases, by hand and as numpy has them; cases without a value are counted apart."""

import numpy as np
import pytest

from metgan_dist.scores.spread import Spread, above


def test_spread_by_hand():
    # Mean 0.5; deviations -0.4, -0.1, 0.1, 0.4, squares 0.34 over 3. Quartiles 3/4 of the way from 0.1 to 0.4, ....
    found = Spread.of([0.9, 0.1, 0.6, 0.4])
    assert (found.count, found.missing) == (4, 0)
    assert found.mean == pytest.approx(0.5)
    assert found.std == pytest.approx((0.34 / 3) ** 0.5)
    assert found.quartiles == pytest.approx((0.325, 0.5, 0.675))
    assert found.text(3) == "0.500 ± 0.337 (0.325, 0.500, 0.675)"
    assert found.text(1, falling=True) == "0.5 ± 0.3 (0.7, 0.5, 0.3)"


def test_cases_without_a_value_are_counted_and_left_out():
    found = Spread.of([np.nan, 2.0, np.nan, 4.0])
    assert (found.count, found.missing, found.mean) == (2, 2, 3.0)
    assert Spread.of([7.0]) == Spread(1, 0, 7.0, 0.0, (7.0, 7.0, 7.0))
    with pytest.raises(ValueError, match="no case has"):
        Spread.of([np.nan])


def test_cases_above_a_value_are_counted_without_those_at_it():
    assert above([0.8, 0.81, 0.9, np.nan, 0.2], 0.8) == 2
    assert above([], 0.8) == 0
