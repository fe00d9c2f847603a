"""Rows whose trainings scored whole test volumes themselves: what their results say, in tables, tests and curves.

A line of the table has its scores of one row, or each of another row. Tests pair the units that two lines share
(patients, or volumes where no patients are known).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.cluster.progress import duration
from metgan_dist.evaluation.comparison import mark
from metgan_dist.evaluation.tables import ABSENT, BETTER, WORSE, Line, Table, Value, aligned
from metgan_dist.recipe import Scores
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.scores.column import Column
from metgan_dist.scores.significance import compare_methods, least_pairs, mean_interval
from metgan_dist.segmentation.figures import Point, size_curves
from metgan_dist.studies.shown import Figure, Gap, TableLine
from metgan_dist.studies.study import Row, Study
from metgan_dist.tiles.tile_set import TileSet

Results = Mapping[str, dict[str, Any]]
TESTS = {"t": "paired t-test", "wilcoxon": "Wilcoxon's signed-rank test"}


@dataclass(frozen=True)
class Cell:
    """A score of a row on the whole test volumes: its mean over units, that of each unit, and of each region."""

    value: float
    units: Mapping[str, float]
    regions: Mapping[str, float]

    @staticmethod
    def of(result: dict[str, Any], score: str) -> Cell | None:
        """What a row's result has under a score; None where it has none."""
        test = result["scores"].get("test", {})
        sample = "segmented" if score.startswith("dice") else "generated"
        own = test.get(sample, {})
        if score not in own:
            return None
        each = test.get("per_unit", {}).get(sample, {})
        regions = {name.removeprefix(f"{score}/"): own[name] for name in own if name.startswith(f"{score}/")}
        return Cell(own[score], {unit: one[score] for unit, one in each.items() if score in one}, regions)

    def interval(self, settings: Scores) -> tuple[float, float] | tuple[None, None]:
        """Bootstrap over units; none of fewer than two."""
        if len(self.units) < 2:
            return None, None
        values = np.array(list(self.units.values()))
        return mean_interval(values, confidence=settings.confidence, resamples=settings.resamples)


Cells = dict[str, dict[str, Cell]]


def report_volumes(
    opened: OpenRun, study: Study, tiles: TileSet, results: Results, failed: Mapping[str, str], folder: str
) -> None:
    """The table beside the paper's numbers, its regions, gaps and all rows below it, and the figures.

    Printed, written and logged.
    """
    if not results:
        return
    settings = opened.recipe.scores
    cells = _cells(study, results)
    reference = _reference(study)
    tests = _tests(cells, reference, settings)
    columns = _columns(study, tiles)
    table = Table(
        study.title,
        columns,
        list(_lines(study, cells, columns, tests, failed, settings)),
        [*_notes(study, tiles, cells, results, settings), *study.notes],
    )
    sections = [_regions(cells, columns), *_gaps(study.gaps, results), _all_rows(study, results, failed)]
    text = "\n".join([table.markdown(), *sections])
    files = {
        "table.md": text.encode(),
        "table.csv": table.csv().encode(),
        "table.tex": table.latex().encode(),
        "volumes.csv": _per_unit(results).to_csv(index=False).encode(),
        **({"significance.csv": tests.to_csv(index=False).encode()} if len(tests) else {}),
        **{f"{figure.name}.png": picture for figure in study.figures if (picture := _drawn(figure, results, settings))},
    }
    opened.keep({str(PurePosixPath(folder, name)): content for name, content in files.items()})
    opened.result.scores["test"] = {
        label: {score: cell.value for score, cell in own.items()} for label, own in cells.items()
    }
    say(f"\n{text}")


def _reference(study: Study) -> str:
    """The label of the line that the others are tested against."""
    return study.reference if study.lines else study.row(study.reference).label


def _cells(study: Study, results: Results) -> Cells:
    """Line -> score -> its cell, where the row has finished and has it."""
    lines = {line.label: {str(score): name for score, name in line.cells.items()} for line in study.lines}
    if not lines:
        lines = {row.label: {str(score): row.name for score in study.scores} for row in study.rows}
    found: Cells = {}
    for label, named in lines.items():
        cells = {score: Cell.of(results[name], score) for score, name in named.items() if name in results}
        found[label] = {score: cell for score, cell in cells.items() if cell is not None}
    return found


def _columns(study: Study, tiles: TileSet) -> list[Column]:
    """The columns under the names of the domains."""
    source, target = list(tiles.domains)[:2] or ("source", "target")
    forward, back = f"{source} → {target}", f"{target} → {source}"
    own = [
        Column("s_score", "S-score", "max"),
        Column("s_score_target", f"S-score {forward}", "max"),
        Column("s_score_source", f"S-score {back}", "max"),
        Column("assd_target", f"ASSD {forward}", "min", 2),
        Column("assd_source", f"ASSD {back}", "min", 2),
        Column("hd95_target", f"HD95 {forward}", "min", 2),
        Column("hd95_source", f"HD95 {back}", "min", 2),
        Column("dice_target", f"Dice {target}", "max"),
        Column("dice_source", f"Dice {source}", "max"),
    ]
    by_name = {column.name: column for column in own}
    return [by_name[str(score)] for score in study.scores]


def _lines(
    study: Study,
    cells: Cells,
    columns: Sequence[Column],
    tests: pd.DataFrame,
    failed: Mapping[str, str],
    settings: Scores,
) -> Iterator[Line]:
    """Those of the table, each with the paper's numbers."""
    lines: Sequence[Row | TableLine] = study.lines or study.rows
    for line in lines:
        names = [line.name] if isinstance(line, Row) else list(line.cells.values())
        values = {}
        for column in columns:
            if (cell := cells[line.label].get(column.name)) is not None:
                low, high = cell.interval(settings)
                values[column.name] = Value(cell.value, low, high, mark(tests, line.label, column, settings))
        reason = None if values else next((failed[name] for name in names if name in failed), "not trained")
        ticks = line.ticks if isinstance(line, Row) else {}
        yield Line(line.label, values, ticks, study.paper(line), failed=reason)


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


def _notes(study: Study, tiles: TileSet, cells: Cells, results: Results, settings: Scores) -> list[str]:
    """On how many units the numbers rest, and what the judges find in real volumes."""
    units = {score: len(cell.units) for own in cells.values() for score, cell in own.items()}
    titles = {column.name: column.title for column in _columns(study, tiles)}
    counted = ", ".join(f"{title}: {units[name]}" for name, title in titles.items() if units.get(name))
    notes = [
        "Of whole test volumes, joined from their tiles; each score is the mean over independent units (patients, or "
        f"volumes where no patients are known). Units: {counted}.",
        *_marks(_reference(study), [count for count in units.values() if count], settings),
    ]
    real = next(iter(results.values()))["scores"].get("test", {}).get("real", {})
    source, target = list(tiles.domains)[:2] or ("source", "target")
    judged = {"s_score_target": target, "s_score_source": source}
    ceilings = [f"{real[name]:.3f} ({domain})" for name, domain in judged.items() if name in real and name in titles]
    if ceilings:
        notes.append(
            "S-score: Dice of judges, which are segmentors of another family of networks than the method's own, on "
            "translated volumes against the labels of their sources. On real test volumes the judges reach "
            f"{', '.join(ceilings)}."
        )
    return notes


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


def _regions(cells: Cells, columns: Sequence[Column]) -> str:
    """Markdown: every region of every score, a line each; nothing where there is one region alone."""
    names = list(dict.fromkeys(name for own in cells.values() for cell in own.values() for name in cell.regions))
    if not names:
        return ""
    rows = [["Regions", "score", *names]]
    for label, own in cells.items():
        for column in columns:
            if (cell := own.get(column.name)) is not None and cell.regions:
                found = [cell.regions.get(name) for name in names]
                shown = [ABSENT if value is None else f"{value:.{column.digits}f}" for value in found]
                rows.append([label, f"{column.title} {column.arrow}", *shown])
    return aligned(rows, left=2)


def _gaps(gaps: Sequence[Gap], results: Results) -> list[str]:
    """Markdown of figure 8: what share of the distance to real data a method closes; nothing without finished rows."""
    rows = [["Gap to real data", "score", "real", "baseline", "method", "closed", "paper"]]
    for gap in gaps:
        found = [Cell.of(results[name], gap.score) if name in results else None for name in gap.rows]
        values = [cell.value for cell in found if cell is not None]
        if len(values) < len(found):
            continue
        real, baseline, method = values
        # Where the baseline is as good as real data there is no gap to close.
        closed = f"{(method - baseline) / (real - baseline):.0%}" if real > baseline else "no gap"
        printed = ABSENT if gap.paper is None else f"{gap.paper:.1%}"
        rows.append([gap.label, gap.score, *(f"{value:.3f}" for value in values), closed, printed])
    return [aligned(rows, left=2)] if len(rows) > 1 else []


def _all_rows(study: Study, results: Results, failed: Mapping[str, str]) -> str:
    """Markdown: every row with all scores of the study, and what it cost."""
    scores = list(dict.fromkeys([*study.scores, *(panel.score for figure in study.figures for panel in figure.panels)]))
    rows = [["Run", "what", *(str(score) for score in scores), "images", "training"]]
    for row in study.rows:
        result = results.get(row.name)
        if result is None:
            absent = [ABSENT] * (len(scores) + 1)
            rows.append([row.name, row.label, *absent, "failed" if row.name in failed else "not trained"])
            continue
        cells = [Cell.of(result, str(score)) for score in scores]
        shown = [ABSENT if cell is None else f"{cell.value:.3f}" for cell in cells]
        cost = [str(result["artefacts"]["images"]), duration(result["timings"]["training"])]
        rows.append([row.name, row.label, *shown, *cost])
    return aligned(rows, left=2)


def _per_unit(results: Results) -> pd.DataFrame:
    """Every score of every unit of every row, unrounded."""
    rows = [
        {"row": name, "scored": sample, "unit": unit, "score": score, "value": value}
        for name, result in results.items()
        for sample, units in result["scores"].get("test", {}).get("per_unit", {}).items()
        for unit, own in units.items()
        for score, value in own.items()
    ]
    return pd.DataFrame(rows, columns=["row", "scored", "unit", "score", "value"])


def _drawn(figure: Figure, results: Results, settings: Scores) -> bytes | None:
    """The picture of a figure; None while none of its rows has finished."""
    panels: dict[str, dict[str, list[Point]]] = {}
    for panel in figure.panels:
        kinds = {kind: list(_points(curve, panel.score, results, settings)) for kind, curve in panel.curves.items()}
        if kinds := {kind: points for kind, points in kinds.items() if points}:
            panels[panel.title] = kinds
    axes = {panel.title: panel.axis for panel in figure.panels}
    return size_curves(panels, figure.title, axes) if panels else None


def _points(curve: Mapping[float, str], score: str, results: Results, settings: Scores) -> Iterator[Point]:
    for x, name in curve.items():
        if name in results and (cell := Cell.of(results[name], score)) is not None:
            low, high = cell.interval(settings)
            yield Point(x, cell.value, cell.value if low is None else low, cell.value if high is None else high)
