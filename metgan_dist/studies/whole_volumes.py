"""Rows whose trainings scored whole test volumes themselves: what their results say, in tables, tests and curves.

A line of the table has its scores of one row, or each of another row. Tests pair the units that two lines share
(patients, or volumes where no patients are known).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from metgan_dist.cluster.progress import duration
from metgan_dist.evaluation.tables import ABSENT, Line, Table, aligned
from metgan_dist.evaluation.whole_volumes import Cell, Cells, VolumeComparison, per_unit
from metgan_dist.recipe import Scores
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.segmentation.figures import Point, size_curves
from metgan_dist.studies.case_table import case_table, tumour_table
from metgan_dist.studies.shown import Figure, Gap, TableLine
from metgan_dist.studies.study import Row, Study
from metgan_dist.tasks import REAL
from metgan_dist.tasks.shapes import whole_columns
from metgan_dist.tiles.tile_set import TileSet

Results = Mapping[str, dict[str, Any]]


def report_volumes(
    opened: OpenRun,
    study: Study,
    tiles: TileSet,
    results: Results,
    failed: Mapping[str, str],
    folder: str,
    insertion: Mapping[str, Any] | None = None,
) -> None:
    """The table beside the paper's numbers, its regions, gaps and all rows below it, and the figures.

    Printed, written and logged. `insertion`: scores of the step that inserted tumours, where the study tells of them.
    """
    if not results:
        return
    settings = opened.recipe.scores
    compared = _compared(study, tiles, results, settings)
    lines = list(_lines(study, compared, failed, settings))
    notes = [*compared.notes(tiles, settings), *study.notes]
    table = Table(study.title, compared.columns, lines, notes)
    cases = case_table(study, results, settings)
    trained = [] if study.job == "segment_volumes" else [_all_rows(study, results, failed)]
    inserted = [] if insertion is None else [tumour_table(insertion)]
    sections = [*([cases] if cases else []), *inserted, compared.regions(), *_gaps(study.gaps, results), *trained]
    text = "\n".join([table.markdown(), *sections])
    units = per_unit({name: _test(one) for name, one in results.items()}, "row")
    files = {
        "table.md": text.encode(),
        "table.csv": table.csv().encode(),
        "table.tex": table.latex().encode(),
        "volumes.csv": units.to_csv(index=False).encode(),
        **({"significance.csv": compared.tests.to_csv(index=False).encode()} if len(compared.tests) else {}),
        **{f"{figure.name}.png": picture for figure in study.figures if (picture := _drawn(figure, results, settings))},
    }
    opened.keep({str(PurePosixPath(folder, name)): content for name, content in files.items()})
    opened.result.scores["test"] = {
        label: {score: cell.value for score, cell in own.items()} for label, own in compared.cells.items()
    }
    say(f"\n{text}")


def _test(result: dict[str, Any]) -> dict[str, Any]:
    """The scores that a row's result has of the test volumes."""
    found: dict[str, Any] = result["scores"].get("test", {})
    return found


def _compared(study: Study, tiles: TileSet, results: Results, settings: Scores) -> VolumeComparison:
    """The lines of the table beside each other."""
    by_name = {column.name: column for column in whole_columns(*tiles.domains)}
    reference = study.reference if study.lines else study.row(study.reference).label
    real = _test(next(iter(results.values()))).get(REAL, {})
    columns = [by_name[str(score)] for score in study.scores]
    return VolumeComparison.of(_cells(study, results), columns, reference, real, settings)


def _cells(study: Study, results: Results) -> Cells:
    """Line -> score -> its cell, where the row has finished and has it."""
    lines = {line.label: {str(score): name for score, name in line.cells.items()} for line in study.lines}
    if not lines:
        lines = {row.label: {str(score): row.name for score in study.scores} for row in study.rows}
    found: dict[str, dict[str, Cell]] = {}
    for label, named in lines.items():
        cells = {score: Cell.of(_test(results[name]), score) for score, name in named.items() if name in results}
        found[label] = {score: cell for score, cell in cells.items() if cell is not None}
    return found


def _lines(study: Study, compared: VolumeComparison, failed: Mapping[str, str], settings: Scores) -> Iterator[Line]:
    """Those of the table, each with the paper's numbers."""
    lines: Sequence[Row | TableLine] = study.lines or study.rows
    for line in lines:
        names = [line.name] if isinstance(line, Row) else list(line.cells.values())
        values = compared.values(line.label, settings)
        reason = None if values else next((failed[name] for name in names if name in failed), "not trained")
        ticks = line.ticks if isinstance(line, Row) else {}
        yield Line(line.label, values, ticks, study.paper(line), failed=reason)


def _gaps(gaps: Sequence[Gap], results: Results) -> list[str]:
    """Markdown of figure 8: what share of the distance to real data a method closes; nothing without finished rows."""
    rows = [["Gap to real data", "score", "real", "baseline", "method", "closed", "paper"]]
    for gap in gaps:
        found = [Cell.of(_test(results[name]), gap.score) if name in results else None for name in gap.rows]
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
        cells = [Cell.of(_test(result), str(score)) for score in scores]
        shown = [ABSENT if cell is None else f"{cell.value:.3f}" for cell in cells]
        cost = [str(result["artefacts"]["images"]), duration(result["timings"]["training"])]
        rows.append([row.name, row.label, *shown, *cost])
    return aligned(rows, left=2)


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
        if name in results and (cell := Cell.of(_test(results[name]), score)) is not None:
            low, high = cell.interval(settings)
            yield Point(x, cell.value, cell.value if low is None else low, cell.value if high is None else high)
