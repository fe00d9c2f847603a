"""Paired tests against scipy, hand counts and the cases where a test has no answer of its own."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from metgan_dist.errors import UserError
from metgan_dist.scores.significance import compare_methods, holm, least_pairs, mean_interval

# What scipy says of a test without an answer. No more: a file that another test left to the collector warns too.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def table(**columns: list[float]) -> pd.DataFrame:
    """Scores `mae` of methods on tiles 0, 1, ..."""
    rows = [(method, k, mae) for method, values in columns.items() for k, mae in enumerate(values)]
    return pd.DataFrame(rows, columns=["method", "tile", "mae"])


def test_differences_worked_by_hand():
    # Differences 1, 2, 3, -4: ranks 1..4, so 6 of 10 up; mean 0.5, deviation sqrt(29 / 3).
    row = compare_methods(table(reference=[1, 1, 1, 5], method=[2, 3, 4, 1]), "reference").iloc[0]
    assert (row["score"], row["method"], row["count"], row["left_out"]) == ("mae", "method", 4, 0)
    assert row["difference"] == pytest.approx(0.5)
    assert row["d_z"] == pytest.approx(0.5 / np.sqrt(29 / 3))
    assert row["t"] == pytest.approx(2 * row["d_z"])
    assert row["rank_biserial"] == pytest.approx((6 - 4) / 10)
    # Of 16 sign patterns, those with a rank sum of at most 4 on one side: {}, 1, 2, 3, 4, 12, 13; two sides.
    assert row["p_wilcoxon"] == pytest.approx(14 / 16)


def test_p_values_are_scipys_of_the_paired_tests():
    random = np.random.default_rng(0)
    one, other = random.normal(0.3, 1, 30), random.normal(0, 1, 30)
    row = compare_methods(table(a=one.tolist(), b=other.tolist()), "b").iloc[0]
    assert row["p_t"] == pytest.approx(stats.ttest_rel(one, other).pvalue)
    assert row["t"] == pytest.approx(stats.ttest_rel(one, other).statistic)
    assert row["p_wilcoxon"] == pytest.approx(stats.wilcoxon(one, other).pvalue)
    assert row["p_t_holm"] == row["p_t"]  # a family of one


def test_tiles_are_matched_by_name_and_not_by_their_order():
    scores = table(a=[1, 2, 3, 4], b=[1.5, 2, 3.5, 4.5])
    shuffled = scores.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(compare_methods(shuffled, "b"), compare_methods(scores, "b"))


def test_tiles_without_a_partner_or_a_finite_difference_are_left_out_and_counted():
    scores = table(a=[1, 2, 4, np.inf, np.nan, 9], b=[1, 1, 1, np.inf, 1])
    row = compare_methods(scores, "b").iloc[0]
    assert (row["count"], row["left_out"]) == (3, 3)
    assert row["difference"] == pytest.approx(4 / 3)


def test_identical_methods_have_no_effect_and_p_one():
    row = compare_methods(table(a=[0.1, 0.2, 0.3], b=[0.1, 0.2, 0.3]), "b").iloc[0]
    assert row[["difference", "low", "high", "t", "d_z", "rank_biserial"]].tolist() == [0] * 6
    assert row[["p_t", "p_t_holm", "p_wilcoxon", "p_wilcoxon_holm"]].tolist() == [1] * 4


def test_differences_of_mere_rounding_are_none():
    values = [0.1 + 0.2, 0.7, 0.9]
    row = compare_methods(table(a=values, b=[0.3, 0.7, 0.9]), "b").iloc[0]
    assert values[0] != 0.3
    assert (row["difference"], row["p_t"], row["p_wilcoxon"]) == (0, 1, 1)


def test_the_same_difference_on_every_tile_has_an_infinite_effect_of_its_sign():
    scores = table(reference=[0.1, 0.2, 0.3], above=[0.2, 0.3, 0.4], below=[0.0, 0.1, 0.2])
    rows = compare_methods(scores, "reference").set_index("method")
    assert rows.loc["above", ["t", "d_z"]].tolist() == [np.inf] * 2
    assert rows.loc["below", ["t", "d_z"]].tolist() == [-np.inf] * 2
    assert rows["p_t"].tolist() == [0, 0]
    assert rows["rank_biserial"].tolist() == [1, -1]
    assert rows["p_wilcoxon"].tolist() == [0.25, 0.25]
    assert rows.loc["above", "low"] == rows.loc["above", "high"] == pytest.approx(0.1)


def test_holm_by_hand_is_monotonic_and_at_most_one():
    corrected = holm(np.array([0.04, 0.01, 0.03, 0.6]))
    np.testing.assert_allclose(corrected, [0.09, 0.04, 0.09, 0.6])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1, 1])


def test_each_score_is_a_family_of_its_own_for_the_correction():
    random = np.random.default_rng(1)
    rows = [(m, t, *random.normal(k, 1, 2)) for k, m in enumerate("abc") for t in range(12)]
    result = compare_methods(pd.DataFrame(rows, columns=["method", "tile", "mae", "ssim"]), "a")
    assert result[["score", "method"]].to_numpy().tolist() == [["mae", "b"], ["mae", "c"], ["ssim", "b"], ["ssim", "c"]]
    for _, family in result.groupby("score"):
        np.testing.assert_allclose(family["p_t_holm"], holm(family["p_t"].to_numpy()))
        assert (family["p_wilcoxon_holm"] >= family["p_wilcoxon"]).all()


def test_tiles_of_one_volume_count_as_one_when_grouped():
    one, other = [1, 3, 5, 5, 9, 9], [0, 0, 4, 4, 6, 6]
    scores = table(a=one, b=other)
    scores["volume"] = ["x", "x", "y", "y", "z", "z"] * 2
    row = compare_methods(scores, "b", scores=["mae"], group="volume").iloc[0]
    assert row["count"] == 3
    means = np.array([2, 1, 3])  # per volume
    assert row["difference"] == pytest.approx(means.mean())
    assert row["p_t"] == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    scores["volume"] = "x"
    with pytest.raises(UserError, match="1 test volume"):
        compare_methods(scores, "b", group="volume")


def test_bootstrap_interval_is_reproducible_and_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(2)
    samples = random.exponential(1, (300, 50))
    intervals = np.array([mean_interval(sample, confidence=0.9, resamples=500) for sample in samples])
    covered = ((intervals[:, 0] <= 1) & (intervals[:, 1] >= 1)).mean()
    assert 0.83 < covered < 0.94
    assert mean_interval(samples[0], seed=1) == mean_interval(samples[0], seed=1)
    assert mean_interval(samples[0], seed=1) != mean_interval(samples[0], seed=2)
    low, high = mean_interval(samples[0], resamples=20000)
    error = samples[0].std() / np.sqrt(50)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda t: t[t["tile"] == 0], {}, r"^mae: a and b have 1 test tile\(s\) in common.*at least two"),
        (lambda t: t.assign(tile=range(len(t))), {}, "0 test tile"),
        (lambda t: pd.concat([t, t.head(1)]), {}, r"^scores: a has tile 0 twice"),
        (lambda t: t, {"reference": "pix3pix"}, r"^reference: no scores of 'pix3pix'; there are a, b"),
        (lambda t: t, {"scores": ["fid"]}, r"^scores: no column 'fid'; there are method, tile, mae"),
        (lambda t: t.assign(volume=None), {"group": "volume"}, "no volume"),
    ],
)
def test_what_cannot_be_compared_is_one_line(change, arguments, message):
    scores = change(table(a=[1.0, 2.0], b=[2.0, 4.0]))
    with pytest.raises(UserError, match=message) as caught:
        compare_methods(scores, **{"reference": "b", **arguments})
    assert "\n" not in str(caught.value)


def test_a_table_of_the_reference_alone_has_nothing_to_compare():
    assert len(compare_methods(table(a=[1.0, 2.0]), "a")) == 0


@pytest.mark.parametrize("level", [0.1, 0.05, 0.01])
def test_the_least_number_of_pairs_is_that_of_wilcoxons_lowest_p(level):
    lowest = [stats.wilcoxon(np.arange(1, pairs + 1)).pvalue for pairs in (least_pairs(level) - 1, least_pairs(level))]
    assert lowest[1] < level <= lowest[0]
