"""Pictures of segmentors over their training, in the manner of paper 4: curves, boxes, and segmented test volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from metgan_dist.figures import CELL_INCHES, canvas, png
from metgan_dist.segmentation.cells import Example
from metgan_dist.segmentation.figures import MASK

TRUTH = "#d55e00"
PANELS = (
    ("train_dice", "Dice, training"),
    ("train_loss", "loss, training"),
    ("test_dice", "Dice, test"),
    ("test_loss", "loss, test"),
)


def learning_curves(rows: Mapping[str, pd.DataFrame], title: str = "") -> bytes:
    """PNG of figure 4: Dice and loss on training and on test volumes over epochs, a line a row.

    rows: by label, a table with the columns epoch, train_dice, train_loss, test_dice, test_loss; where several folds
    have one epoch, their mean is drawn. Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("learning curves need at least one row")
    figure, axes = canvas(9.0, 6.4, 2, 2, title)
    for axis, (name, what) in zip(axes.ravel(), PANELS, strict=True):
        for label, table in rows.items():
            mean = table.groupby("epoch")[name].mean()
            axis.plot(mean.index, mean.to_numpy(), label=label, linewidth=1.1, marker="." if len(mean) < 3 else "")
        axis.set_title(what, fontsize=10)
        axis.set_xlabel("epoch", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(rows)), fontsize=7)
    return png(figure)


def epoch_boxes(
    groups: Mapping[str, Mapping[str, np.ndarray]], printed: Mapping[str, float] | None = None, title: str = ""
) -> bytes:
    """PNG of figures 5 and 7: the Dice (per cent) of the last epochs, a box a row, lying, in groups.

    groups: values by label, by group. printed: the paper's mean by label, drawn as a diamond. Boxes reach from the
    first to the third quartile, whiskers to the last value within 1.5 of their length. Raises ValueError without rows.
    """
    entries = [(group, label, values) for group, rows in groups.items() for label, values in rows.items()]
    if not entries:
        raise ValueError("boxes need at least one row")
    figure, axes = canvas(7.0, 1.2 + 0.42 * len(entries), title=title)
    axis, colours = axes[0, 0], {group: f"C{number}" for number, group in enumerate(groups)}
    places = np.arange(len(entries))[::-1]
    drawn = axis.boxplot(
        [values for _, _, values in entries], positions=places, vert=False, widths=0.6, patch_artist=True
    )
    for box, middle, (group, _, _) in zip(drawn["boxes"], drawn["medians"], entries, strict=True):
        box.set(facecolor=colours[group], alpha=0.6)
        middle.set(color="black")
    for place, (_, label, _) in zip(places, entries, strict=True):
        if (value := (printed or {}).get(label)) is not None:
            axis.plot([value], [place], marker="D", color="black", markersize=4, linestyle="")
    axis.set_yticks(places, [label for _, label, _ in entries], fontsize=8)
    axis.set_xlabel("test Dice (%), ◆ the paper's mean" if printed else "test Dice (%)", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="x", alpha=0.3)
    handles = [axis.scatter([], [], color=colour, marker="s", label=group) for group, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    return png(figure)


@dataclass(frozen=True)
class Segmented:
    """What a row made of a tile of a test volume, and its Dice on the whole volume."""

    example: Example
    dice: float


def segmented_volumes(volumes: Mapping[str, Mapping[str, Segmented]], title: str = "") -> bytes:
    """PNG of figure 8: a test volume a line, a row of the study a column, its name and Dice above the picture.

    Of each volume the plane with most of the truth is shown: what was found filled, the truth outlined. Raises
    ValueError where there is nothing.
    """
    columns: Sequence[str] = list(dict.fromkeys(label for rows in volumes.values() for label in rows))
    if not columns:
        raise ValueError("a picture of segmentations needs at least one")
    width, height = len(columns) * 1.2 * CELL_INCHES, len(volumes) * 1.35 * CELL_INCHES + 0.3
    figure, axes = canvas(width, height, len(volumes), len(columns), title, fontsize=8)
    for line, (name, rows) in zip(axes, volumes.items(), strict=True):
        line[0].set_ylabel(name, fontsize=8)
        for axis, label in zip(line, columns, strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            if label in rows:
                _draw(axis, rows[label].example)
                axis.set_title(f"{label}\nDice {rows[label].dice:.1%}", fontsize=8)
    return png(figure)


def _draw(axis, example: Example) -> None:  # type: ignore[no-untyped-def]
    from matplotlib.colors import ListedColormap

    truth = example.label > 0
    plane = int(truth.sum(axis=(1, 2)).argmax()) if truth.ndim == 3 else ...
    image, truth, found = example.image[plane], truth[plane], example.predicted[plane] > 0
    axis.imshow(image, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    axis.imshow(
        np.ma.masked_equal(found.astype(int), 0), cmap=ListedColormap([MASK]), alpha=0.55, interpolation="nearest"
    )
    if truth.any():
        axis.contour(truth.astype(float), levels=[0.5], colors=[TRUTH], linewidths=1.0)
