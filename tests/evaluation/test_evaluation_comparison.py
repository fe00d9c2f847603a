"""Values, intervals and tests from the scores of single tiles."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from metgan_dist.evaluation.comparison import compare
from metgan_dist.evaluation.notes import significance_notes
from metgan_dist.evaluation.scoring import REAL
from metgan_dist.evaluation.tables import BETTER, WORSE, Line, Table
from metgan_dist.recipe import Scores
from metgan_dist.scores.scored import Scored
from metgan_dist.tiles.independence import Units

TILES = np.arange(10, 50)


def in_volumes(count, tiles=TILES):
    """The tiles dealt out to volumes."""
    names = [f"v{tile % count}" for tile in tiles]
    return Units(pd.DataFrame({"volume": names, "unit": names, "alone": True}, index=tiles), "volumes")


VOLUMES = in_volumes(40)
BASE = np.random.default_rng(0).uniform(0.2, 0.4, len(TILES))


def scored(shift=0.0, overlap=8, of_set=None, **more):
    """A method whose MAE is `shift` above the base; it finds `overlap` of the 16 + 16 pixels of every other tile."""
    labelled = TILES % 2 == 0
    frame = {
        "tile": TILES,
        "mae": BASE + shift + np.random.default_rng(1).normal(0, 1e-4, len(TILES)) * bool(shift),
        "dice": np.where(labelled, overlap / 16, np.nan),
        "overlap_1": np.where(labelled, overlap, 0),
        "size_1": np.where(labelled, 32, 2),
        **more,
    }
    return Scored(pd.DataFrame(frame), of_set or {})


def compared(methods, reference="a", units=VOLUMES, **settings):
    chosen = Scores.model_validate({"names": ["mae", "label_fidelity"], "resamples": 200, **settings})
    return compare({REAL: scored(overlap=16), **methods}, units, reference, chosen)


def test_values_are_means_over_tiles_and_pooled_dice():
    result = compared({"a": scored(), "b": scored(0.1, 4)})
    assert result.values["a"]["mae"].value == pytest.approx(BASE.mean())
    assert result.values["a"]["label_fidelity"].value == pytest.approx(2 * 8 * 20 / (32 * 20 + 2 * 20))
    assert result.ceiling == pytest.approx(2 * 16 * 20 / (32 * 20 + 2 * 20))
    for value in result.values["a"].values():
        assert value.low < value.value < value.high
    assert result.per_tile["volume"].tolist() == 2 * [f"v{row % 40}" for row in TILES]


def test_marks_follow_the_direction_of_the_score_and_need_a_difference():
    result = compared({"a": scored(), "worse": scored(0.01, 9), "better": scored(-0.01, 7), "same": scored()})
    assert {name: values["mae"].mark for name, values in result.values.items()} == {
        "a": "",
        "worse": WORSE,
        "better": BETTER,
        "same": "",
    }
    assert result.values["worse"]["label_fidelity"].mark == BETTER
    assert result.values["better"]["label_fidelity"].mark == WORSE
    numbers = result.test_numbers("worse")
    assert numbers["mae_difference"] == pytest.approx(0.01, abs=1e-4)
    assert numbers["mae_p_t_holm"] < 1e-6
    assert result.test_numbers("a") == {}


def test_a_score_that_only_some_methods_have_leaves_the_others_without():
    cycles = np.random.default_rng(2).uniform(0.1, 0.2, len(TILES))
    result = compared({"a": scored(), "b": scored(0.1, cycle_mae=cycles)}, names=["mae", "cycle_mae"])
    assert [column.name for column in result.columns] == ["mae", "cycle_mae"]
    assert result.values["a"].keys() == {"mae"}
    assert result.values["b"]["cycle_mae"].value == pytest.approx(cycles.mean())
    assert set(result.tests["score"]) == {"mae", "dice_up_to_real"}


def test_independent_units_are_paired_and_drawn():
    result = compared({"a": scored(), "b": scored(0.1)}, units=in_volumes(4))
    assert set(result.tests["count"]) == {4, 2}  # two of the four volumes have labelled tiles
    assert result.labelled_units == 2
    assert result.values["a"]["mae"].value == pytest.approx(BASE.mean())
    wide = compared({"a": scored(), "b": scored(0.1)}).values["a"]["mae"]
    narrow = result.values["a"]["mae"]
    means = BASE.reshape(-1, 4).mean(axis=0)
    assert means.min() <= narrow.low < narrow.value < narrow.high <= means.max()
    assert (narrow.low, narrow.high) != (wide.low, wide.high)


@pytest.mark.parametrize("copies", [1, 4])
def test_tiles_that_show_the_same_places_make_nothing_more_certain(copies):
    """Each of seven places is seen by as many tiles as there are copies, all nearly alike."""
    places, random = 7, np.random.default_rng(5)
    shift, noise = random.normal(0.01, 0.01, places), random.normal(0, 1e-12, (places, copies))
    tiles = np.arange(places * copies)
    names = np.repeat([f"v{place}" for place in range(places)], copies)
    units = Units(pd.DataFrame({"volume": names, "unit": names, "alone": True}, index=tiles), "volumes")
    methods = {
        "a": Scored(pd.DataFrame({"tile": tiles, "mae": 0.3})),
        "b": Scored(pd.DataFrame({"tile": tiles, "mae": 0.3 + (shift[:, None] + noise).ravel()})),
    }
    real = {REAL: Scored(pd.DataFrame({"tile": tiles}))}
    chosen = Scores(names=("mae",), resamples=200)
    (row,) = compare({**real, **methods}, units, "a", chosen).tests.to_dict("records")
    assert row["count"] == places
    assert row["p_t"] == pytest.approx(stats.ttest_1samp(shift, 0).pvalue, rel=1e-6)
    assert row["p_wilcoxon"] == pytest.approx(stats.wilcoxon(shift).pvalue)


def test_tiles_between_two_blocks_stay_out_of_the_tests_and_in_the_values():
    units = in_volumes(8)
    units.table["alone"] = TILES >= 20
    odd = np.where(TILES < 20, 9.0, BASE)
    result = compared({"a": scored(), "b": scored(mae=odd)}, units=units)
    row = result.tests[result.tests["score"] == "mae"].iloc[0]
    assert (row["count"], row["difference"]) == (8, 0)
    assert result.values["b"]["mae"].value == pytest.approx(odd.mean())


@pytest.mark.parametrize(
    ("units", "confidence", "marked"), [(5, 0.95, ""), (6, 0.95, WORSE), (7, 0.99, ""), (8, 0.99, WORSE)]
)
def test_fewer_units_than_a_test_needs_get_no_mark(units, confidence, marked):
    result = compared({"a": scored(), "b": scored(0.1)}, units=in_volumes(units), confidence=confidence)
    assert result.values["b"]["mae"].mark == marked
    assert (result.tests["p_t"] < 1e-3).all() or result.tests["score"].nunique() > 1


@pytest.mark.parametrize(
    ("units", "culprits"),
    [
        (in_volumes(4), ["No differences are marked: the tiles are of 4 volumes, and fewer than 6", "p < 0.05"]),
        (in_volumes(10), ["worse, † better than a: paired t-test over 10 volumes", "labels lie in 5 of them alone"]),
        (in_volumes(40), ["worse, † better than a: paired t-test over 40 volumes, Holm"]),
    ],
)
def test_the_table_says_on_how_many_units_it_rests(units, culprits):
    result = compared({"a": scored(), "b": scored(0.1)}, units=units)
    text = "\n".join(significance_notes(result, Scores()))
    assert all(culprit in text for culprit in culprits), text
    assert ("not marked: labels" in text) == (units.count == 10)
    assert significance_notes(compared({"a": scored()}, units=units), Scores()) == []


def test_one_method_alone_has_values_and_no_tests():
    result = compared({"a": scored()})
    assert len(result.tests) == 0
    assert result.values["a"]["mae"].mark == ""
    assert result.test_numbers("a") == {}


def test_scores_of_sets_have_no_interval_and_other_weights_are_named():
    of_set = {"fid_unverified": 7.0, "kid_unverified": 0.1, "kid_unverified_std": 0.01}
    result = compared({"a": scored(of_set=of_set), "b": scored(of_set=of_set)}, names=["fid", "mae"])
    fid, mae = result.columns
    assert fid.title == "FID (unverified weights)"
    assert mae.name == "mae"
    assert result.values["b"]["fid_unverified"].value == 7.0
    assert result.values["b"]["fid_unverified"].low is None


def test_sets_alone_can_be_compared():
    parts = {name: Scored(pd.DataFrame({"tile": TILES}), {"fid": 1.0}, {}) for name in (REAL, "a", "b")}
    result = compare(parts, VOLUMES, "a", Scores(names=("fid",)))
    assert result.values["b"]["fid"].value == 1.0
    assert result.ceiling is None


def test_labels_on_a_single_tile_are_no_ground_for_a_test():
    one = np.where(np.arange(len(TILES)) == 0, 0.5, np.nan)
    result = compared({"a": scored(dice=one), "b": scored(dice=one)})
    assert set(result.tests["score"]) == {"mae"}


def test_identical_images_have_infinite_psnr_and_no_interval():
    psnr = np.full(len(TILES), np.inf)
    methods = {"a": scored(psnr=psnr), "b": scored(psnr=BASE)}
    result = compared(methods, names=["psnr"], reference="b")
    assert result.values["a"]["psnr"].value == np.inf
    assert result.values["a"]["psnr"].low is None
    assert "psnr" not in set(result.tests["score"])


@pytest.mark.parametrize("units", [VOLUMES, in_volumes(4)])
def test_a_tile_without_a_score_is_not_left_out_of_the_mean(units):
    mae = np.where(np.arange(len(TILES)) == 3, np.nan, BASE)
    result = compared({"a": scored(mae=mae), "b": scored(0.1)}, units=units)
    assert np.isnan(result.values["a"]["mae"].value)
    assert result.values["a"]["mae"].low is None
    assert np.isfinite(result.values["b"]["mae"].value)


def test_without_any_class_there_is_no_label_fidelity():
    nothing = {"dice": np.nan, "overlap_1": 0, "size_1": 0}
    chosen = Scores.model_validate({"names": ["mae", "label_fidelity"], "resamples": 200})
    methods = {"a": scored(**nothing), "b": scored(0.1, **{**nothing, "size_1": 2})}
    result = compare({REAL: scored(**nothing), **methods}, VOLUMES, "a", chosen)
    assert result.ceiling is None
    assert result.values["a"].keys() == {"mae"}
    assert result.values["b"]["label_fidelity"].value == 0  # found where nothing is


def bold(result, name):
    """The methods whose value of a column a table prints in bold."""
    table = Table("T", result.columns, [Line(label, values) for label, values in result.values.items()])
    (place,) = (k for k, column in enumerate(result.columns) if column.name == name)
    rows = [line.split("|") for line in table.markdown().splitlines() if line.startswith("| ")][1:]
    return {row[1].strip() for row in rows if "**" in row[place + 2]}


def test_label_fidelity_above_that_of_real_images_is_no_better_than_theirs():
    """The judge finds 8 of 16 pixels in real images, 8 in `as_real`, 12 in `above`, 6 in `below`."""
    chosen = Scores.model_validate({"names": ["mae", "label_fidelity"], "resamples": 200})
    methods = {"as_real": scored(overlap=8), "above": scored(overlap=12), "below": scored(overlap=6)}
    for reference, marks in (
        ("as_real", {"as_real": "", "above": "", "below": WORSE}),
        ("above", {"as_real": "", "above": "", "below": WORSE}),
        ("below", {"as_real": BETTER, "above": BETTER, "below": ""}),
    ):
        result = compare({REAL: scored(overlap=8), **methods}, VOLUMES, reference, chosen)
        assert {name: values["label_fidelity"].mark for name, values in result.values.items()} == marks
    assert result.values["above"]["label_fidelity"].value > result.ceiling  # told as it is
    assert bold(result, "label_fidelity") == bold(result, "label_fidelity_of_real") == {"as_real", "above"}
    shares = {name: values["label_fidelity_of_real"].value for name, values in result.values.items()}
    assert shares == pytest.approx({"as_real": 1, "above": 1.5, "below": 0.75})
    assert [column.name for column in result.columns] == ["mae", "label_fidelity", "label_fidelity_of_real"]


def test_what_exceeds_real_on_one_tile_makes_up_for_no_other():
    far = np.where(TILES % 4 == 0, 1.0, np.where(TILES % 4 == 2, 0.4, np.nan))  # the mean is above 0.5, yet it misses
    result = compare(
        {REAL: scored(overlap=8), "even": scored(overlap=8), "uneven": scored(overlap=6, dice=far)},
        VOLUMES,
        "even",
        Scores.model_validate({"names": ["label_fidelity"], "resamples": 200}),
    )
    assert result.values["uneven"]["label_fidelity"].mark == WORSE


def test_a_blind_judge_gives_no_share_of_real():
    chosen = Scores.model_validate({"names": ["label_fidelity"], "resamples": 200})
    result = compare({REAL: scored(overlap=0), "a": scored(overlap=0), "b": scored()}, VOLUMES, "a", chosen)
    assert [column.name for column in result.columns] == ["label_fidelity"]
