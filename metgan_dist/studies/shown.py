"""What a study shows of its rows beside a line for each: lines put together from several, plots, and gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import Field

from metgan_dist.recipe import Score, Section, WholeScore

LesionScore = Literal["dice", "precision", "recall", "jaccard", "voxel_dice"]
# Of the test Dice after each epoch, in per cent: mean, standard deviation and maximum over the last epochs.
EpochScore = Literal["epoch_dice", "epoch_dice_std", "epoch_dice_max"]
AnyScore = Score | LesionScore | WholeScore | EpochScore
# Those of a study by its rows' job and by what is compared.
SCORES = {
    ("train_metgan", "tiles"): get_args(Score),
    ("train_metgan", "volumes"): get_args(WholeScore),
    ("segment_volumes", "volumes"): get_args(WholeScore),
    ("segment_folds", "tiles"): get_args(LesionScore),
    ("segment_folds", "epochs"): get_args(EpochScore),
}


class TableLine(Section):
    """A line of a table whose scores are those of several rows: a method in either direction, say."""

    label: str = Field(description="what the table calls it")
    cells: dict[AnyScore, str] = Field(description="score -> name of the row that has it", min_length=1)
    paper: dict[AnyScore, float] = Field({}, description="the scores that the paper printed for this line, as printed")


Five = tuple[float, float, float, float, float]


class PaperCases(Section):
    """What the paper printed of a row's patients: mean, standard deviation, and three quartiles in its order."""

    patients: int = Field(ge=1, description="how many")
    dice: Five = Field(description="of the Dice")
    assd: Five = Field(description="of the average symmetric surface distance, mm")
    above: int = Field(ge=0, description="patients with a Dice above the limit")


class CaseReport(Section):
    """A table of how the scores of single patients lie, of one region."""

    region: str = Field(description="class of the labels, by its name")
    least: float = Field(0.8, ge=0, le=1, description="Dice above which patients are counted")
    paper: dict[str, PaperCases] = Field({}, description="row -> what the paper printed of it")
    inserted: str | None = Field(
        None, description="step of insert_tumours whose tumours' contrasts are told, before and after"
    )


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


class CrossLine(Section):
    """A line of a table that has a row of the study in each of its columns, as paper 4's table 1 has."""

    label: str = Field(description="what the table calls it")
    cells: dict[str, str] = Field(description="title of the column -> name of the row", min_length=1)


class Boxes(Section):
    """A picture of the test Dice of the last epochs, a box a row, in groups."""

    name: str = Field(description="the file's, without .png")
    title: str = Field(description="above the picture")
    groups: dict[str, list[str]] = Field(description="title of a group -> names of its rows", min_length=1)


class EpochReport(Section):
    """What is shown of rows whose test Dice was noted after each epoch."""

    window: float = Field(
        gt=0, le=1, description="over how many epochs means are taken, of those that a row trains by itself"
    )
    table: list[CrossLine] = Field(description="the table's lines", min_length=1)
    curves: list[str] = Field([], description="rows of the learning curves (figure 4)")
    boxes: list[Boxes] = Field([], description="pictures of distributions over epochs (figures 5 and 7)")
    intensities: dict[str, str] = Field(
        {}, description="what -> step whose tiles' intensities are shown class by class (figure 6)"
    )
    examples: list[str] = Field([], description="rows whose segmentations of two test volumes are drawn (figure 8)")

    @property
    def named(self) -> list[str]:
        """All rows that it names."""
        lines = [name for line in self.table for name in line.cells.values()]
        boxed = [name for one in self.boxes for names in one.groups.values() for name in names]
        return list(dict.fromkeys([*lines, *self.curves, *boxed, *self.examples]))

    def of(self, rows: Sequence[str], steps: Sequence[str]) -> EpochReport:
        """The report of these rows and steps alone."""
        table = [(line, {title: name for title, name in line.cells.items() if name in rows}) for line in self.table]
        boxes = [
            (one, {title: [name for name in names if name in rows] for title, names in one.groups.items()})
            for one in self.boxes
        ]
        kept = [(one, {title: names for title, names in groups.items() if names}) for one, groups in boxes]
        return self.model_copy(
            update={
                "table": [line.model_copy(update={"cells": cells}) for line, cells in table if cells],
                "curves": [name for name in self.curves if name in rows],
                "boxes": [one.model_copy(update={"groups": groups}) for one, groups in kept if groups],
                "intensities": {what: step for what, step in self.intensities.items() if step in steps},
                "examples": [name for name in self.examples if name in rows],
            }
        )
