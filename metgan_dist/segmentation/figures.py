"""Pictures of a segmentation: what was found and missed in tiles, and scores against the number of training tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from metgan_dist.figures import CELL_INCHES, canvas, png
from metgan_dist.segmentation.cells import Example

# Told apart by people who do not see red and green apart: blue, vermilion, yellow.
OUTCOMES = {"found": "#0072b2", "missed": "#d55e00", "false positive": "#f0e442"}
MASK = "#009e73"
COLUMNS = ("image", "truth", "prediction", "found, missed, false")


def overlays(examples: Mapping[str, Example]) -> bytes:
    """PNG: a tile a row, under its name: image, truth, prediction, and lesions coloured by what became of them.

    Images are grey from -1 to 1. Of a 3D tile the slice with most of lesions and false predictions is shown. Raises
    ValueError when there is no tile.
    """
    if not examples:
        raise ValueError("an overlay needs at least one tile")
    rows, cols = len(examples), len(COLUMNS)
    figure, axes = canvas(cols * CELL_INCHES, rows * CELL_INCHES + 0.6, rows, cols)
    for name, axis in zip(COLUMNS, axes[0], strict=True):
        axis.set_title(name, fontsize=9)
    for line, (name, example) in zip(axes, examples.items(), strict=True):
        image, label, predicted, outcome = _slice(example)
        for axis in line:
            axis.imshow(image, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        _fill(line[1], label > 0, [MASK])
        _fill(line[2], predicted > 0, [MASK])
        _fill(line[3], outcome, list(OUTCOMES.values()))
        line[0].set_ylabel(name, fontsize=7)
    figure.legend(
        handles=[Patch(color=colour, label=kind) for kind, colour in OUTCOMES.items()],
        loc="outside lower center",
        ncols=len(OUTCOMES),
        fontsize=8,
    )
    return png(figure)


def _slice(example: Example) -> tuple[np.ndarray, ...]:
    arrays = (example.image, example.label, example.predicted, example.outcome)
    if example.image.ndim == 2:
        return arrays
    most = int((example.outcome > 0).sum(axis=(1, 2)).argmax())
    return tuple(array[most] for array in arrays)


def _fill(axis: Axes, mask: np.ndarray, colours: Sequence[str]) -> None:
    """Lay the mask over the picture, value k in the k-th colour, counted from 1."""
    shown, most = np.ma.masked_equal(mask.astype(int), 0), len(colours) + 1
    axis.imshow(shown, cmap=ListedColormap(list(colours)), vmin=1, vmax=most, alpha=0.55, interpolation="nearest")


@dataclass(frozen=True)
class Point:
    """A score with its range (over folds, or its interval), at a number of training tiles or another amount of data."""

    samples: float
    mean: float
    low: float
    high: float


def size_curves(
    panels: Mapping[str, Mapping[str, Sequence[Point]]], title: str = "", axes: Mapping[str, str] | None = None
) -> bytes:
    """PNG in the manner of paper 1's figure 7: a panel a score, a line a kind of data, bands from `low` to `high`.

    Args:
        panels: score -> kind (real, synthetic, ...) -> its points, in any order. A single point is a dot with a bar.
        title: above the panels.
        axes: what stands below a panel, where it is not the number of training tiles.

    Raises ValueError when there is no panel.
    """
    if not panels:
        raise ValueError("curves need at least one score")
    figure, grid = canvas(3.2 * len(panels), 3.2, 1, len(panels), title, fontsize=10)
    # A kind has one colour in all panels, whichever others a panel has.
    colours = {kind: f"C{n}" for n, kind in enumerate(dict.fromkeys(kind for own in panels.values() for kind in own))}
    for axis, (score, kinds) in zip(grid[0], panels.items(), strict=True):
        for kind, points in kinds.items():
            ordered = sorted(points, key=lambda point: point.samples)
            x, mean, low, high = (
                np.array([getattr(point, part) for point in ordered]) for part in ("samples", "mean", "low", "high")
            )
            colour = colours[kind]
            axis.plot(x, mean, marker="o", markersize=3, linewidth=1.2, color=colour, label=kind)
            if len(ordered) > 1:
                axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            else:
                axis.vlines(x, low, high, color=colour, alpha=0.4, linewidth=3)
        axis.set_title(score, fontsize=10)
        axis.set_xlabel((axes or {}).get(score, "training tiles"), fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return png(figure)
