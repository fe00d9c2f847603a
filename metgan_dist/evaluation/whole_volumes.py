"""Scores of whole test volumes side by side: of each independent unit, with intervals, paired tests and regions.

They are what `Task.whole` gives of a split, and what the results of trainings keep of it. Tests pair the units that two
lines share (patients, or volumes where no patients are known), each counting once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.evaluation.comparison import Comparison, mark
from metgan_dist.evaluation.notes import TESTS
from metgan_dist.evaluation.scoring import REAL
from metgan_dist.evaluation.tables import ABSENT, BETTER, WORSE, Value, aligned
from metgan_dist.recipe import Scores
from metgan_dist.scores.column import Column
from metgan_dist.scores.significance import compare_methods, least_pairs, mean_interval
from metgan_dist.tasks import REAL as REAL_SAMPLE
from metgan_dist.tasks.shapes import PER_UNIT, S_SCORE, SIDES, judges_of, sample_of
from metgan_dist.tiles.tile_set import TileSet


@dataclass(frozen=True)
class Cell:
    """A score of a line on the whole test volumes: its mean over units, that of each unit, and of each region."""

    value: float
    units: Mapping[str, float]
    regions: Mapping[str, float]

    @staticmethod
    def of(scores: Mapping[str, Any], score: str) -> Cell | None:
        """What the scores of a split, by sample, have under the name of a column; None where they have nothing."""
        sample, name = sample_of(score)
        own = scores.get(sample, {})
        if name not in own:
            return None
        each = scores.get(PER_UNIT, {}).get(sample, {})
        regions = {one.removeprefix(f"{name}/"): own[one] for one in own if one.startswith(f"{name}/")}
        return Cell(own[name], {unit: one[name] for unit, one in each.items() if name in one}, regions)

    def interval(self, settings: Scores) -> tuple[float, float] | tuple[None, None]:
        """Bootstrap over units; none of fewer than two."""
        if len(self.units) < 2:
            return None, None
        values = np.array(list(self.units.values()))
        return mean_interval(values, confidence=settings.confidence, resamples=settings.resamples)


Cells = Mapping[str, Mapping[str, Cell]]  # by line and score


@dataclass(frozen=True)
class VolumeComparison:
    """Lines side by side on whole volumes.

    Attributes:
        cells: by label of a line and score, those that there are.
        columns: the scores in the order of the table.
        reference: label of the line that the others are tested against.
        tests: `compare_methods` of the units that each line shares with the reference; empty without any such pair.
        real: what the judges find in the real volumes.
    """

    cells: Cells
    columns: Sequence[Column]
    reference: str
    tests: pd.DataFrame
    real: Mapping[str, float]

    @staticmethod
    def of(
        cells: Cells, columns: Sequence[Column], reference: str, real: Mapping[str, float], settings: Scores
    ) -> VolumeComparison:
        """The cells of the lines with their tests."""
        return VolumeComparison(cells, columns, reference, _tests(cells, reference, settings), real)

    def values(self, label: str, settings: Scores) -> dict[str, Value]:
        """A line's values by score, with intervals and marks."""
        values = {}
        for column in self.columns:
            if (cell := self.cells[label].get(column.name)) is not None:
                low, high = cell.interval(settings)
                values[column.name] = Value(cell.value, low, high, mark(self.tests, label, column, settings))
        return values

    def notes(self, tiles: TileSet, settings: Scores) -> list[str]:
        """On how many units the numbers rest, and what the judges find in real volumes."""
        units = {score: len(cell.units) for own in self.cells.values() for score, cell in own.items()}
        titles = {column.name: column.title for column in self.columns}
        counted = ", ".join(f"{title}: {units[name]}" for name, title in titles.items() if units.get(name))
        notes = [
            "Of whole test volumes, joined from their tiles; each score is the mean over independent units (patients, "
            f"or volumes where no patients are known). Units: {counted or 'none'}."
        ]
        if len(self.cells) > 1:
            notes += _marks(self.reference, [count for count in units.values() if count], settings)
        domains = dict(zip(("source", "target"), list(tiles.domains)[:2] or ("source", "target"), strict=True))
        judged = {role for name in titles for role in judges_of(name)}
        ceilings = [
            f"{self.real[name]:.3f} ({domains[side]})"
            for side in SIDES
            if judges_of(name := f"{S_SCORE}_{side}") <= judged and name in self.real
        ]
        if ceilings:
            notes.append(
                "S-score: Dice of judges, which are segmentors of another family of networks than the method's own, on "
                "translated volumes against the labels of their sources. On real test volumes the judges reach "
                f"{', '.join(ceilings)}."
            )
        return notes

    def regions(self) -> str:
        """Markdown: every region of every score, a line each; nothing where there is one region alone."""
        every = [cell for own in self.cells.values() for cell in own.values()]
        names = list(dict.fromkeys(name for cell in every for name in cell.regions))
        if not names:
            return ""
        rows = [["Regions", "score", *names]]
        for label, own in self.cells.items():
            for column in self.columns:
                if (cell := own.get(column.name)) is not None and cell.regions:
                    found = [cell.regions.get(name) for name in names]
                    shown = [ABSENT if value is None else f"{value:.{column.digits}f}" for value in found]
                    rows.append([label, f"{column.title} {column.arrow}", *shown])
        return aligned(rows, left=2)


def beside(
    found: Mapping[str, Mapping[str, Any]], columns: Sequence[Column], reference: str, settings: Scores
) -> VolumeComparison:
    """What `score_volumes` found of methods, side by side."""
    of_methods = {label: scores for label, scores in found.items() if label != REAL}
    cells = {
        label: {column.name: cell for column in columns if (cell := Cell.of(scores, column.name)) is not None}
        for label, scores in of_methods.items()
    }
    return VolumeComparison.of(cells, columns, reference, found.get(REAL, {}).get(REAL_SAMPLE, {}), settings)


def with_volumes(comparison: Comparison, volumes: VolumeComparison, settings: Scores) -> Comparison:
    """A comparison on single tiles with the columns, values and tests of whole volumes beside its own."""
    values = {label: {**own, **volumes.values(label, settings)} for label, own in comparison.values.items()}
    tests = pd.concat([one for one in (comparison.tests, volumes.tests) if len(one)] or [pd.DataFrame()])
    columns = [*comparison.columns, *(c for c in volumes.columns if any(c.name in own for own in values.values()))]
    return replace(comparison, values=values, tests=tests, columns=columns)


def per_unit(scores: Mapping[str, Mapping[str, Any]], subject: str) -> pd.DataFrame:
    """Every score of every unit, unrounded, of the scores of a split by line; `subject`: what the lines are."""
    rows = [
        {subject: name, "scored": sample, "unit": unit, "score": score, "value": value}
        for name, own in scores.items()
        for sample, units in own.get(PER_UNIT, {}).items()
        for unit, found in units.items()
        for score, value in found.items()
    ]
    return pd.DataFrame(rows, columns=[subject, "scored", "unit", "score", "value"])


def _tests(cells: Cells, reference: str, settings: Scores) -> pd.DataFrame:
    """Paired tests of every line against the reference, over the units that both have; empty without any such pair."""
    tables = []
    for score in dict.fromkeys(score for own in cells.values() for score in own):
        units = {label: own[score].units for label, own in cells.items() if score in own}
        base = units.get(reference, {})
        units = {label: own for label, own in units.items() if label == reference or len(own.keys() & base.keys()) > 1}
        if len(units) < 2 or len(base) < 2:
            continue
        rows = [
            {"method": label, "tile": unit, score: value} for label, own in units.items() for unit, value in own.items()
        ]
        tables.append(
            compare_methods(
                pd.DataFrame(rows),
                reference,
                scores=[score],
                confidence=settings.confidence,
                resamples=settings.resamples,
            )
        )
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _marks(reference: str, units: Collection[int], settings: Scores) -> list[str]:
    """What marks mean, and which numbers of units are too small for any."""
    level = 1 - settings.confidence
    least = least_pairs(level)
    notes = []
    if min(units, default=0) < least:
        few = "No differences are marked" if max(units, default=0) < least else "Some columns have no marks"
        notes.append(
            f"{few}: fewer than {least} independent pairs cannot reach p < {level:.2g} (Wilcoxon's signed-rank test). "
            "Bold: best. Intervals: table.csv."
        )
    if max(units, default=0) >= least:
        notes.append(
            f"{WORSE} worse, {BETTER} better than {reference}: {TESTS[settings.test]} over units, Holm-corrected, "
            f"p < {level:.2g}. Bold: best. Intervals: table.csv."
        )
    return notes
