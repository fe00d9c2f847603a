"""A method's values over all tiles, with intervals that draw independent units."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from metgan_dist.evaluation.tables import Value
from metgan_dist.recipe import Scores
from metgan_dist.scores.column import Column
from metgan_dist.scores.labels import mean_dice, pooled_dice, stacked_counts
from metgan_dist.scores.scored import Scored
from metgan_dist.tiles.independence import Units


def values_of(scored: Scored, units: Units, columns: Sequence[Column], settings: Scores) -> dict[str, Value]:
    """A method's values over all tiles; intervals by resampling units. No label fidelity where no class occurs."""
    unit = units.table["unit"].loc[scored.per_tile["tile"]].to_numpy()
    values = {}
    for name in (column.name for column in columns):
        if name in scored.of_set:
            values[name] = Value(scored.of_set[name])
        elif name == "label_fidelity" and "dice" in scored.per_tile:
            counts = stacked_counts(scored.per_tile.groupby(unit).sum())
            if not np.isnan(pooled := pooled_dice(scored.per_tile)):
                values[name] = Value(pooled, *_interval(counts, mean_dice, settings))
        elif name in scored.per_tile:
            scores = scored.per_tile[name]
            sums = scores.groupby(unit).agg(lambda own: own.sum(skipna=False))
            parts = np.stack([sums, scores.groupby(unit).size()], axis=1)
            # A tile without a score is not left out: that would flatter the method which failed on it.
            values[name] = Value(float(scores.mean(skipna=False)), *_interval(parts, _ratio, settings))
    return values


def _ratio(sums: np.ndarray) -> np.ndarray:
    """The mean, of sum and number."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def _interval(
    parts: np.ndarray, of: Callable[[np.ndarray], np.ndarray], settings: Scores, seed: int = 0
) -> tuple[float | None, float | None]:
    """Percentile bootstrap of what `of` makes of the sum of the parts (units, ...) that are drawn; none of one unit."""
    units = len(parts)
    if units < 2 or not np.isfinite(parts).all():
        return None, None
    random = np.random.default_rng(seed)
    # How often a unit is drawn is multinomial, so nothing is copied.
    drawn = [
        of(np.tensordot(random.multinomial(units, np.full(units, 1 / units)), parts, axes=1))
        for _ in range(settings.resamples)
    ]
    tail = 50 * (1 - settings.confidence)
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])  # a draw without any class has no Dice
    return float(low), float(high)
