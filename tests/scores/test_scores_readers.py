"""Readers' answers against shares and intervals that can be worked out by hand."""

import math

import pytest

from metgan_dist.scores.readers import reader_scores, share


def test_shares_are_those_that_can_be_counted():
    truth = [True] * 4 + [False] * 6
    said = [True, True, True, False] + [False] * 4 + [True] * 2
    found = reader_scores(truth, said)
    assert (found["accuracy"]["right"], found["accuracy"]["of"]) == (7, 10)
    assert found["accuracy"]["value"] == pytest.approx(0.7)
    assert found["sensitivity"]["value"] == pytest.approx(3 / 4)
    assert found["specificity"]["value"] == pytest.approx(4 / 6)


def test_intervals_are_exact():
    """All of n right: the lower end is where n in a row have a chance of 2.5 %; 5 of 10 by Clopper and Pearson's
    table."""
    sure = share(8, 8)
    assert (sure["low"], sure["high"]) == (pytest.approx(0.025 ** (1 / 8)), 1)
    half = share(5, 10)
    assert (half["low"], half["high"]) == (pytest.approx(0.1871, abs=1e-4), pytest.approx(0.8129, abs=1e-4))


def test_of_nothing_nothing_is_known():
    found = reader_scores([True, True], [True, False])
    assert math.isnan(found["specificity"]["value"])
    assert found["sensitivity"]["of"] == 2
