"""Whether a method differs from a reference method on the same test tiles, by how much, and how sure that is.

Both methods score every tile, so the comparison is paired: all numbers come from the differences, method minus
reference. Tiles that overlap, or lie beside each other in one volume, are not independent: average over what is
(`group`) first, and the test asks whether the difference would hold in another such place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy  # loads a part of itself when that is first used

from metgan_dist.errors import UserError

ROUNDING = 1e-12  # differences this small beside the scores themselves are rounding, and taken as none
_BOOTSTRAP_DRAWS = 2**22  # indices drawn at a time, so that memory does not grow with the number of tiles
_COLUMNS = (
    *("score", "method", "count", "left_out", "difference", "low", "high"),
    *("t", "p_t", "p_t_holm", "p_wilcoxon", "p_wilcoxon_holm", "d_z", "rank_biserial"),
)


def compare_methods(
    table: pd.DataFrame,
    reference: str,
    *,
    scores: Sequence[str] | None = None,
    group: str | None = None,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare every other method of a table with the reference, score by score.

    Args:
        table: a row per method and tile with the columns ``method``, ``tile`` and one per score. Tiles of the two
            methods are matched by ``tile``. A tile that one of them lacks, or whose difference is not a finite number
            (PSNR of identical images), is left out of that comparison and counted.
        reference: the method to compare with.
        scores: columns to compare; by default all numeric ones but ``tile`` and the group.
        group: a column such as ``unit``; scores are averaged within each group first, and groups take the place
            of tiles.
        confidence: of the intervals.
        resamples, seed: of the bootstrap.

    Returns:
        A row per score and method, in the table's order, with the columns

        - ``score``, ``method``; ``count``: tiles (or groups) compared; ``left_out``: tiles left out.
        - ``difference``: mean of method minus reference; ``low``, ``high``: its bootstrap interval (percentile).
        - ``t``, ``p_t``: paired t-test, two-sided. ``p_wilcoxon``: Wilcoxon's signed-rank test, two-sided, pairs
          without difference dropped.
        - ``p_t_holm``, ``p_wilcoxon_holm``: the same after Holm's correction for the methods compared on this score.
        - ``d_z``: Cohen's effect size of paired data, mean over standard deviation of the differences.
          ``rank_biserial``: from -1 (every tile lower than the reference) to 1 (every tile higher).

        Methods without any difference have t, d_z and rank_biserial 0 and p 1. Equal differences on all tiles have
        infinite t and d_z of their sign, and p_t 0.

    Raises:
        UserError: no such method or column, a method has a tile twice, or fewer than two tiles (groups) in common.
    """
    scores = _check(table, reference, scores, group)
    others = [name for name in table["method"].unique() if name != reference]
    rows = []
    for score in scores:
        for method in others:
            one, other, left_out = _pairs(table, method, reference, score, group)
            if len(one) < 2:
                raise UserError(
                    f"{score}: {method} and {reference} have {len(one)} test {group or 'tile'}(s) in common; "
                    "a paired test needs at least two"
                )
            interval = {"confidence": confidence, "resamples": resamples, "seed": seed}
            rows.append({"score": score, "method": method, **_comparison(one, other, interval), "left_out": left_out})
    result = pd.DataFrame(rows, columns=_COLUMNS)
    for test in ("p_t", "p_wilcoxon"):
        result[f"{test}_holm"] = result.groupby("score", sort=False)[test].transform(lambda p: holm(p.to_numpy()))
    return result


def mean_interval(
    values: np.ndarray, *, confidence: float = 0.95, resamples: int = 9999, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap confidence interval (percentile) of the mean of at least two finite values, reproducible by its seed.

    Equal values have an interval of no width.
    """
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    interval = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _BOOTSTRAP_DRAWS // len(values)),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def least_pairs(level: float) -> int:
    """Pairs below which no test is to be marked: fewer cannot reach p < `level` in Wilcoxon's test, whose lowest
    two-sided p of n pairs is 2 / 2^n, and tell too little of their spread for a t-test.

    >>> least_pairs(0.05), least_pairs(0.01)
    (6, 8)
    """
    return math.floor(1 - math.log2(level)) + 1


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of a family of p-values; controls the chance of any false finding among them."""
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    # The smallest p times their number, the next times one less, and so on; never less than one before it.
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected


def _check(table: pd.DataFrame, reference: str, scores: Sequence[str] | None, group: str | None) -> list[str]:
    """The columns to compare, after checking that the table can be compared at all."""
    for column in ("method", "tile", *(scores or ()), *([group] if group else [])):
        if column not in table:
            raise UserError(f"scores: no column '{column}'; there are {', '.join(map(str, table.columns))}")
    methods = list(table["method"].unique())
    if reference not in methods:
        raise UserError(f"reference: no scores of '{reference}'; there are {', '.join(map(str, methods))}")
    twice = table.loc[table.duplicated(["method", "tile"]), ["method", "tile"]]
    if len(twice):
        method, tile = twice.iloc[0]
        raise UserError(f"scores: {method} has tile {tile} twice; give every tile of a method one row")
    if group and table[group].isna().any():
        raise UserError(f"scores: some tiles have no {group}; fill the column or compare tile by tile")
    if scores is None:
        scores = [name for name in table.select_dtypes("number") if name not in ("method", "tile", group)]
    return list(scores)


def _pairs(
    table: pd.DataFrame, method: str, reference: str, score: str, group: str | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores of both methods on the tiles (or groups) that they share, and how many tiles were left out."""
    one, other = (table[table["method"] == name].set_index("tile") for name in (method, reference))
    pairs = pd.DataFrame({"one": one[score], "other": other[score]}).astype(float)  # rows of either, matched by tile
    paired = pairs[np.isfinite(pairs).all(axis=1)]
    left_out = len(pairs) - len(paired)
    if group:
        paired = paired.groupby(other[group].reindex(paired.index)).mean()
    return paired["one"].to_numpy(), paired["other"].to_numpy(), left_out


def _comparison(one: np.ndarray, other: np.ndarray, interval: dict[str, Any]) -> dict[str, float]:
    scale = np.abs([one, other]).max()
    # Ties must be exact zeros: Wilcoxon's test drops those, but would rank differences of rounding.
    difference = np.where(np.abs(one - other) <= ROUNDING * scale, 0.0, one - other)
    if np.ptp(difference) <= ROUNDING * scale:
        difference = np.full_like(difference, difference.mean())  # else its spread of mere rounding would be tested
    mean = float(difference.mean())
    low, high = mean_interval(difference, **interval)
    return {
        "count": len(difference),
        "difference": mean,
        "low": low,
        "high": high,
        **_t_test(difference, mean),
        **_signed_ranks(difference),
    }


def _t_test(difference: np.ndarray, mean: float) -> dict[str, float]:
    if np.ptp(difference) == 0:  # the limits, where scipy divides by zero
        limit = float(np.sign(mean)) * np.inf if mean else 0.0
        return {"t": limit, "p_t": 0.0 if mean else 1.0, "d_z": limit}
    test = scipy.stats.ttest_1samp(difference, 0.0)
    return {"t": float(test.statistic), "p_t": float(test.pvalue), "d_z": mean / float(difference.std(ddof=1))}


def _signed_ranks(difference: np.ndarray) -> dict[str, float]:
    moved = difference[difference != 0]
    if len(moved) == 0:
        return {"p_wilcoxon": 1.0, "rank_biserial": 0.0}
    ranks = scipy.stats.rankdata(np.abs(moved))
    return {
        "p_wilcoxon": float(scipy.stats.wilcoxon(moved).pvalue),
        # Kerby's simple difference: the share of the ranks above 0, less that of those below.
        "rank_biserial": float((ranks * np.sign(moved)).sum() / ranks.sum()),
    }
