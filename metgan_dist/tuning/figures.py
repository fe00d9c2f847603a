"""Pictures of a sweep, as PNG: values against scores, which field matters, the trade between two scores, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from metgan_dist.figures import canvas, png
from metgan_dist.recipe.tuning import Range
from metgan_dist.tuning.ledger import TrialRecord
from metgan_dist.tuning.space import Space, shown
from metgan_dist.tuning.trial import Objective

OWN = "black"


def parallel_coordinates(records: Sequence[TrialRecord], space: Space, objective: Objective) -> bytes:
    """A line a trial over an axis a field and, last, its score, which colours it; the recipe's own in dashed black.

    Trials that were stopped are thin. Raises ValueError when no trial has a score.
    """
    scored = [(record, score) for record in records if (score := record.score(objective)) is not None]
    if not scored:
        raise ValueError("no trial has a score")
    figure, axis = _figure(1.8 * (len(space) + 1) + 1.5, 3.6)
    scores = np.array([score for _, score in scored])
    colours = Normalize(scores.min(), scores.max() or 1.0)
    # Yellow is the better end, whichever that is.
    palette = colormaps["viridis_r" if objective.mode == "min" else "viridis"]
    for record, score in scored:
        heights = [_height(values, record.point[field]) for field, values in space.items()]
        style: dict[str, Any] = {
            "color": palette(colours(score)),
            "linewidth": 1.6 if record.outcome == "whole" else 0.7,
        }
        if record.is_own:
            style = {"color": OWN, "linewidth": 1.6, "linestyle": "--"}
        axis.plot(range(len(space) + 1), [*heights, float(colours(score))], **style)
    for place, (field, values) in enumerate(space.items()):
        for value in _ticks(values):
            axis.text(place, _height(values, value), f" {shown(value)}", fontsize=7, color="0.3")
        axis.axvline(place, color="0.7", linewidth=0.8, zorder=0)
        axis.text(place, -0.08, field.partition(".")[2], ha="center", va="top", fontsize=9)
    axis.axvline(len(space), color="0.7", linewidth=0.8, zorder=0)
    axis.text(len(space), -0.08, objective.name, ha="center", va="top", fontsize=9)
    axis.set_axis_off()
    bar = figure.colorbar(ScalarMappable(colours, palette), ax=axis, fraction=0.03)
    bar.ax.tick_params(labelsize=7)
    return png(figure)


def importance_bars(importance: Mapping[str, float], objective: Objective) -> bytes:
    """How much of the score's variation each field explains, between 0 and 1, most important first."""
    figure, axis = _figure(5.0, 0.8 + 0.35 * len(importance))
    names = sorted(importance, key=lambda name: importance[name])
    bars = axis.barh([name.partition(".")[2] for name in names], [importance[name] for name in names], color="#0072b2")
    axis.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    axis.set_xlim(0, 1.1)
    axis.set_xlabel(f"importance for {objective.name}", fontsize=9)
    axis.tick_params(labelsize=8)
    return png(figure)


def pareto_front(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], front: Sequence[TrialRecord]
) -> bytes:
    """Trials by two scores; those that no other beats in both are joined, and the recipe's own is a black star."""
    first, second = objectives
    figure, axis = _figure(5.0, 4.0)
    for record in records:
        x, y = record.score(first), record.score(second)
        if x is None or y is None:
            continue
        whole = record.outcome == "whole"
        style: dict[str, Any] = {"marker": "o", "s": 30 if whole else 12, "color": "#0072b2" if whole else "0.6"}
        if record.is_own:
            style = {"marker": "*", "s": 120, "color": OWN}
        axis.scatter(x, y, **style)
        axis.annotate(record.name.removeprefix("trial-"), (x, y), fontsize=6, xytext=(4, 3), textcoords="offset points")
    ends = sorted((record.score(first) or 0.0, record.score(second) or 0.0) for record in front)
    axis.plot(
        [x for x, _ in ends], [y for _, y in ends], color="#d55e00", linewidth=1.2, zorder=0, label="Pareto front"
    )
    axis.set_xlabel(_axis_label(first), fontsize=9)
    axis.set_ylabel(_axis_label(second), fontsize=9)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8)
    return png(figure)


def learning_curves(records: Sequence[TrialRecord], objective: Objective, best: TrialRecord | None) -> bytes:
    """The score against images, a line a trial, with a dot where it was stopped; best and own are named."""
    figure, axis = _figure(6.0, 3.8)
    for record in records:
        rows = [row for row in record.rows if objective.key in row and "stopped" not in row]
        x, y = [row["images"] for row in rows], [row[objective.key] for row in rows]
        style: dict[str, Any] = {"color": "0.65", "linewidth": 0.8}
        if record is best:
            style = {"color": "#d55e00", "linewidth": 1.8, "label": f"best: {record.name}"}
        elif record.is_own:
            style = {"color": OWN, "linewidth": 1.8, "linestyle": "--", "label": "the recipe's own"}
        axis.plot(x, y, **style)
        if record.outcome != "whole" and x:
            axis.plot(x[-1], y[-1], ".", color="0.4", markersize=5)
    axis.set_xlabel("images", fontsize=9)
    axis.set_ylabel(_axis_label(objective), fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)
    return png(figure)


def _height(values: Range | list[Any], value: Any) -> float:
    """Where a value lies on an axis from 0 to 1."""
    if isinstance(values, Range):
        low, high, place = np.log([values.low, values.high, value]) if values.log else (values.low, values.high, value)
        return float((place - low) / (high - low))
    return values.index(value) / (len(values) - 1)


def _ticks(values: Range | list[Any]) -> list[Any]:
    if not isinstance(values, Range):
        return values
    return [
        values.low,
        float(np.sqrt(values.low * values.high)) if values.log else (values.low + values.high) / 2,
        values.high,
    ]


def _axis_label(objective: Objective) -> str:
    return f"{objective.name} ({'lower' if objective.mode == 'min' else 'higher'} is better)"


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = canvas(width, height)
    return figure, axes[0, 0]
