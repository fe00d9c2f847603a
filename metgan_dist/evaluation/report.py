"""From per-tile scores to what people read: table, tests, grid; written beside the run and logged to MLflow."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from metgan_dist.cluster.progress import duration
from metgan_dist.evaluation.comparison import UNVERIFIED, Comparison, compare
from metgan_dist.evaluation.notes import notes_on
from metgan_dist.evaluation.runs import TrainedRun
from metgan_dist.evaluation.scoring import REAL, Scoring, score_methods, score_volumes
from metgan_dist.evaluation.subject import Subject
from metgan_dist.evaluation.tables import Line, Table, aligned
from metgan_dist.evaluation.whole_volumes import VolumeComparison, beside, per_unit, with_volumes
from metgan_dist.figures import by_channel, image_grid
from metgan_dist.recipe import Scores
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.scores.column import Column
from metgan_dist.scores.scored import Scored
from metgan_dist.tasks import GENERATED, Task
from metgan_dist.tasks.pictures import picture_rows


@dataclass(frozen=True)
class Entry:
    """A line that the table shall have: a run, or why there is none; and what a study says of it."""

    label: str
    run: TrainedRun | None
    ticks: Mapping[str, bool | str] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)
    failed: str | None = None


@dataclass(frozen=True)
class Compared:
    """What a comparison came to: its numbers, the table, a grid of the images (PNG), and what is of whole volumes.

    found: scores of whole volumes by label and sample, where the table has any; volumes: these beside each other.
    """

    comparison: Comparison
    table: Table
    grid: bytes
    found: Mapping[str, dict[str, dict[str, Any]]]
    volumes: VolumeComparison | None


def compare_entries(
    opened: OpenRun,
    entries: Sequence[Entry],
    subject: Subject,
    reference: str,
    title: str,
    notes: Sequence[str] = (),
) -> Compared:
    """Score the entries' runs on the cluster, and compare them.

    `reference` is the label that the others are tested against, `notes` go below the table's own.
    """
    runs = {entry.label: entry.run for entry in entries if entry.run is not None}
    checkpoints = {label: run.checkpoint for label, run in runs.items()}
    task, tiles, recipe, settings = subject.task, subject.task.tiles, opened.recipe, subject.settings
    shown = picture_rows(tiles, subject.rows, settings.pictures)
    storage, here = recipe.storage.options, recipe.scaling.in_process
    scoring = Scoring(tiles.uri, task.name, subject.judges, subject.names, storage, here)
    columns = subject.whole_columns
    # Where no score is of single tiles, these are translated for their pictures alone.
    of_tiles = len(subject.names) > len(columns)
    samples = {**task.compared("test"), GENERATED: subject.rows} if of_tiles else {GENERATED: shown}
    with opened.result.phase("scores"):
        scored = score_methods(
            checkpoints,
            scoring,
            samples,
            block=settings.block,
            show=shown.tolist(),
            plan=opened.plan,
            report=say,
        )
        found = score_volumes(checkpoints, scoring, plan=opened.plan, report=say) if columns else {}
    with opened.result.phase("tests"):
        units = task.units(subject.rows, settings.group)
        comparison = compare(scored, units, reference, settings, task.columns)
        volumes = beside(found, columns, reference, settings) if found else None
    own = notes_on(comparison, subject, next(iter(runs.values())))
    if volumes is not None:
        own += volumes.notes(tiles, settings)
        comparison = with_volumes(comparison, volumes, settings)
    left_out = [column for column in task.columns if column.name in subject.skipped]
    ordered = sorted([*comparison.columns, *left_out], key=lambda column: _place(column, settings))
    table = Table(title, ordered, [_line(entry, comparison, scored) for entry in entries], [*own, *notes])
    return Compared(comparison, table, _grid(task, shown, scored), found, volumes)


def _place(column: Column, settings: Scores) -> int:
    return next(
        k for k, name in enumerate(settings.names) if column.name in (name, f"{name}{UNVERIFIED}", f"{name}_of_real")
    )


def costs(entries: Sequence[Entry]) -> str:
    """Markdown table of what each training took, where its result tells."""
    rows = [["Method", "images", "training", "images/s", "memory", "GPU memory"]]
    for entry in entries:
        facts = {} if entry.run is None else _facts(entry.run)
        rows.append(
            [
                entry.label,
                f"{facts['images']:.0f}" if facts else "-",
                duration(facts["seconds"]) if "seconds" in facts else "-",
                f"{facts['images_per_second']:.2f}" if "images_per_second" in facts else "-",
                *(_gigabytes(facts.get(name)) for name in ("peak_rss_bytes", "peak_gpu_bytes")),
            ]
        )
    return aligned(rows)


def _gigabytes(size: float | None) -> str:
    return f"{size / 1e9:.2f} GB" if size else "-"


def _facts(run: TrainedRun) -> dict[str, float]:
    result = run.result
    spent = {"seconds": result["timings"]["training"], **result.get("resources", {})}
    return {"images": result["artefacts"]["images"], **spent}


def _line(entry: Entry, comparison: Comparison, scored: Mapping[str, Scored]) -> Line:
    if entry.run is None:
        return Line(entry.label, ticks=entry.ticks, paper=entry.paper, failed=entry.failed or "not trained")
    spread = {name: value for name, value in scored[entry.label].of_set.items() if name.endswith("_std")}
    more: dict[str, float | str] = {
        **spread,
        **comparison.test_numbers(entry.label),
        **_facts(entry.run),
        "run": entry.run.name,
        "mlflow_run_id": str(entry.run.result["mlflow_run_id"]),
    }
    return Line(entry.label, comparison.values[entry.label], entry.ticks, entry.paper, more)


def _grid(task: Task, rows: np.ndarray, scored: Mapping[str, Scored]) -> bytes:
    """What tiles hold (figure 4 of paper 1: anatomy, imposed label, real image), then every method; a tile a row."""
    columns = task.given(rows)
    channels = task.tiles.channels(task.shown_as.get(GENERATED, "label"))
    for label, method in scored.items():
        if label != REAL:
            columns |= by_channel(label, [method.pictures[int(row)] for row in rows], channels)
    return image_grid(columns)


def write_report(opened: OpenRun, compared: Compared, sections: Sequence[str], folder: str = "") -> None:
    """Print the table, with `sections` below; write and log it as table.md, .csv and .tex, and what stands behind it.

    Beside it go significance.csv, scores.parquet (tile by tile), of whole volumes volumes.csv (unit by unit), and
    grid.png, in `folder` of the run.
    """
    packed, comparison, table = io.BytesIO(), compared.comparison, compared.table
    comparison.per_tile.to_parquet(packed, index=False)
    regions = compared.volumes.regions() if compared.volumes else ""
    markdown = "\n".join([table.markdown(), *([regions] if regions else []), *sections])
    files = {
        "table.md": markdown.encode(),
        "table.csv": table.csv().encode(),
        "table.tex": table.latex().encode(),
        **({"significance.csv": comparison.tests.to_csv(index=False).encode()} if len(comparison.tests) else {}),
        "scores.parquet": packed.getvalue(),
        **({"volumes.csv": per_unit(compared.found, "method").to_csv(index=False).encode()} if compared.found else {}),
        "grid.png": compared.grid,
    }
    opened.keep({str(PurePosixPath(folder, name)): content for name, content in files.items()})
    opened.result.scores["test"] = {
        label: {name: value.value for name, value in values.items()} for label, values in comparison.values.items()
    }
    say(f"\n{markdown}")
