"""What a study shows of its rows beside a line for each: lines put together from several, plots, and gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import Field

from metgan_dist.recipe import Score, Section, WholeScore

LesionScore = Literal["dice", "precision", "recall", "jaccard", "voxel_dice"]
AnyScore = Score | LesionScore | WholeScore
# Those of a study by its rows' job and by what is compared.
SCORES = {
    ("train_metgan", "tiles"): get_args(Score),
    ("train_metgan", "volumes"): get_args(WholeScore),
    ("segment_folds", "tiles"): get_args(LesionScore),
}


class TableLine(Section):
    """A line of a table whose scores are those of several rows: a method in either direction, say."""

    label: str = Field(description="what the table calls it")
    cells: dict[AnyScore, str] = Field(description="score -> name of the row that has it", min_length=1)
    paper: dict[AnyScore, float] = Field({}, description="the scores that the paper printed for this line, as printed")


class Panel(Section):
    """A plot of a score of rows against how much of something they were given."""

    title: str = Field(description="above the panel")
    score: WholeScore = Field(description="what is plotted")
    axis: str = Field(description="below the panel")
    curves: dict[str, dict[float, str]] = Field(description="kind of training -> place on the axis -> name of its row")


class Figure(Section):
    """Panels side by side in one picture."""

    name: str = Field(description="the file's, without .png")
    title: str = Field(description="above the panels")
    panels: list[Panel] = Field(min_length=1)


class Gap(Section):
    """By how much a method comes nearer to what real data bring, where another one stays below it."""

    label: str = Field(description="what the table calls it")
    score: WholeScore = Field(description="what is compared")
    real: str = Field(description="row that was given real data")
    baseline: str = Field(description="row of the method that is to be bettered")
    method: str = Field(description="row of the method")
    paper: float | None = Field(None, description="the share of the gap that the paper says is closed")

    @property
    def rows(self) -> tuple[str, str, str]:
        """Names of its rows."""
        return self.real, self.baseline, self.method


def line_of(line: TableLine, names: Sequence[str]) -> TableLine:
    """A line with the cells of these rows alone."""
    cells = {score: name for score, name in line.cells.items() if name in names}
    return line.model_copy(update={"cells": cells})


def figure_of(figure: Figure, names: Sequence[str]) -> Figure:
    """A figure with the points of these rows alone."""
    panels = []
    for panel in figure.panels:
        points = {kind: {x: name for x, name in curve.items() if name in names} for kind, curve in panel.curves.items()}
        if kept := {kind: curve for kind, curve in points.items() if curve}:
            panels.append(panel.model_copy(update={"curves": kept}))
    return figure.model_copy(update={"panels": panels})
