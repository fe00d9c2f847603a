"""The plan: the same for the same recipe, in the shares asked for, and of training tiles only."""

import time

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from metgan_dist.errors import UserError
from metgan_dist.recipe import Synthesis
from metgan_dist.synthesis.plan import KINDS, Pool, Sources, plan_tiles

SPLITS = ("train",) * 8 + ("val", "test", "unseen", "gap")


def plan(tiles, drawings=0, **settings):
    chosen = Synthesis.model_validate(settings)
    return plan_tiles(Sources.of(tiles, chosen), chosen, drawings)


def sources_of(table):
    columns = [name for name in table if name.startswith("source_")]
    return [[row for row in rows if row >= 0] for rows in table[columns].to_numpy().tolist()]


def test_the_same_plan_from_the_same_recipe_and_a_longer_one_begins_with_it(write_source):
    tiles = write_source(SPLITS)
    table = plan(tiles, count=200)
    pd.testing.assert_frame_equal(table, plan(tiles, count=200))
    pd.testing.assert_frame_equal(table, plan(tiles, count=500).iloc[:200])
    assert not table.equals(plan(tiles, count=200, seed=1))
    assert table["seed"].is_unique


def test_only_training_tiles_give_anatomy_and_labels(write_source):
    tiles = write_source(SPLITS)
    table = plan(tiles, count=500)
    used = set(table["anatomy"]) | {row for rows in sources_of(table) for row in rows}
    assert used == set(range(8))


def test_shares_and_numbers_of_merged_labels(write_source):
    table = plan(write_source(SPLITS), 3, count=4000, real=1, merged=2, drawn=1, labels="x")
    fractions = table["kind"].value_counts(normalize=True)
    expected = {"real": 0.25, "merged": 0.5, "drawn": 0.25}
    for kind, share in expected.items():
        assert fractions[KINDS.index(kind)] == pytest.approx(share, abs=0.03)
    assert KINDS.index("transformed") not in fractions
    for kind, rows in zip(table["kind"], sources_of(table), strict=True):
        assert len(set(rows)) == len(rows)
        assert len(rows) in ((2, 3) if KINDS[kind] == "merged" else (1,))
        assert max(rows) < (3 if KINDS[kind] == "drawn" else 8)
    merged = [len(r) for r, kind in zip(sources_of(table), table["kind"], strict=True) if KINDS[kind] == "merged"]
    assert np.mean(merged) == pytest.approx(2.5, abs=0.1)


def test_labels_are_laid_as_they_are_or_merged_unless_bending_is_asked(write_source):
    """Paper 1, section 4.3.3: real non-zero labels or combinations thereof."""
    tiles = write_source(SPLITS)
    kinds = plan(tiles, count=4000)["kind"].value_counts(normalize=True)
    assert kinds.to_dict() == {KINDS.index(kind): pytest.approx(0.5, abs=0.03) for kind in ("real", "merged")}
    bent = plan(tiles, count=4000, transformed=0.2, merged=3)["kind"].value_counts(normalize=True)
    expected = {"real": 0.2, "merged": 0.6, "transformed": 0.2}
    assert bent.to_dict() == {KINDS.index(kind): pytest.approx(share, abs=0.03) for kind, share in expected.items()}
    assert set(plan(write_source(("train",) * 2), count=50, transformed=1)["kind"]) == {KINDS.index("transformed")}
    assert len(plan(write_source(("train", "val")), count=50, transformed=1)) == 50


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({"transformed": 1.5}, "transformed\n.*less than or equal to 1"),
        ({"transformed": -0.1}, "transformed\n.*greater than or equal to 0"),
        ({"real": 0, "merged": 0, "transformed": 0.5}, "one of real, merged and drawn must be above 0"),
    ],
)
def test_shares_that_make_no_whole_are_refused(settings, culprit):
    with pytest.raises(ValidationError, match=culprit):
        Synthesis.model_validate(settings)


def test_every_pair_of_labels_is_as_likely_as_any_other(write_source):
    tiles = write_source(("train",) * 4)
    pairs = pd.Series(
        [tuple(rows) for rows in sources_of(plan(tiles, count=6000, real=0, merge_most=2))]
    ).value_counts()
    assert len(pairs) == 12
    assert pairs.min() > 400
    assert pairs.max() < 600


def test_samples_share_label_and_anatomy(write_source):
    table = plan(write_source(SPLITS), count=5, samples=3)
    assert len(table) == 15
    assert table["sample"].tolist() == [0, 1, 2] * 5
    assert (table.drop(columns="sample").groupby(table.index // 3).nunique() == 1).all(axis=None)


def test_anatomy_of_the_labels_own_organ(write_source):
    tiles = write_source(SPLITS)
    organ = tiles.index["organ"].to_numpy()
    table = plan(tiles, 2, count=300, organs="same", drawn=1, labels="x")
    for kind, anatomy, rows in zip(table["kind"], table["anatomy"], sources_of(table), strict=True):
        if KINDS[kind] != "drawn":
            assert {organ[row] for row in rows} == {organ[anatomy]}
    drawn = table[table["kind"] == KINDS.index("drawn")]
    assert set(organ[drawn["anatomy"]]) == {"lung", "liver"}
    only = plan(tiles, count=50, organs="same", anatomies="v0")
    assert set(organ[only["anatomy"]]) == {"lung"}
    assert {organ[row] for rows in sources_of(only) for row in rows} == {"lung"}


def test_chosen_anatomies(write_source):
    tiles = write_source(SPLITS)
    table = plan(tiles, count=200, anatomies="v1")
    assert set(tiles.index["volume"].iloc[table["anatomy"]]) == {"v1"}
    assert {row % 2 for rows in sources_of(table) for row in rows} == {0, 1}  # labels come from both volumes


def test_refusals(write_source):
    tiles = write_source(("train", "test", "train", "test"))
    with pytest.raises(UserError, match=r"synthesis.anatomies: no volume 'v9' .* v0, v1"):
        plan(tiles, anatomies="v0,v9")
    with pytest.raises(UserError, match=r"synthesis.anatomies: volume 'v1' has no training tiles \(test only\)"):
        plan(tiles, anatomies="v1")
    with pytest.raises(UserError, match=r"synthesis.tiles: .*no label"):
        plan(write_source(labelled=False))
    with pytest.raises(UserError, match=r"synthesis.tiles: .*no training tiles"):
        plan(write_source(("val", "test")))
    with pytest.raises(UserError, match=r"synthesis.merged: there is only one label"):
        plan(write_source(("train", "test")))
    with pytest.raises(UserError, match=r"synthesis.organs: same: .*name no organ"):
        plan(write_source(organs=("",)), organs="same")
    assert len(plan(write_source(labelled=False), 2, count=4, real=0, merged=0, drawn=1, labels="x")) == 4


def test_a_million_tiles_are_planned_in_seconds(write_source):
    rows = np.arange(100_000)
    pools = Pool.of(rows, rows % 7, 7)
    began = time.perf_counter()
    table = plan_tiles(Sources(pools, pools), Synthesis(count=1_000_000))
    assert len(table) == 1_000_000
    assert time.perf_counter() - began < 10
