"""Shares of real data are of patients, nested and never nothing; what judges keep nobody else gets."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from metgan_dist.tiles.shares import cases_of, kept_for_judges, share_of


def index(patients, tiles=3):
    """So many tiles of each patient, and after them as many that are not trained on."""
    names = np.repeat([f"p{k:02}" for k in range(patients)], tiles)
    return pd.DataFrame({"patient": [*names, *names], "volume": "v"}), np.arange(patients * tiles)


def patients(table, rows):
    return set(table["patient"].iloc[rows])


@pytest.mark.parametrize("count", [1, 4, 7, 50])
def test_shares_are_of_whole_patients_and_nested(count):
    table, rows = index(count)
    for seed in (0, 1):
        parts = [share_of(table, rows, share, seed) for share in (0.01, 0.14, 0.5, 1.0)]
        assert [len(part) for part in parts] == [3 * max(1, round(share * count)) for share in (0.01, 0.14, 0.5, 1.0)]
        for smaller, larger in pairwise(parts):
            assert patients(table, smaller) <= patients(table, larger)
        np.testing.assert_array_equal(parts[-1], rows)
    assert count < 7 or patients(table, share_of(table, rows, 0.5, 0)) != patients(table, share_of(table, rows, 0.5, 3))


def test_judges_keep_whole_patients_where_there_are_enough():
    table, rows = index(8)
    kept = kept_for_judges(table, rows, 0.25)
    assert len(patients(table, kept)) == 2
    assert len(kept) == 6
    assert len(kept_for_judges(table, rows, 0.01)) == 3
    assert len(kept_for_judges(table, rows, 0)) == 0
    assert len(kept_for_judges(*index(4), 0.5)) == 0


def test_cases_are_whole_patients_nested_by_seed_and_too_few_are_one_line(mistake):
    table, rows = index(12)
    for seed in (0, 1):
        parts = [cases_of(table, rows, count, seed, "field") for count in (1, 5, 12)]
        assert [len(patients(table, part)) for part in parts] == [1, 5, 12]
        assert [len(part) for part in parts] == [3, 15, 36]
        for smaller, larger in pairwise(parts):
            assert patients(table, smaller) <= patients(table, larger)
    assert patients(table, cases_of(table, rows, 5, 0, "")) != patients(table, cases_of(table, rows, 5, 1, ""))
    with mistake("segmentation.cases: 13 cases asked, but the tiles to train on are of 12; ask for fewer"):
        cases_of(table, rows, 13, 0, "segmentation.cases")
    volumes = table.assign(patient="", volume=table["patient"])  # where no patients are known
    np.testing.assert_array_equal(cases_of(volumes, rows, 5, 0, ""), cases_of(table, rows, 5, 0, ""))
