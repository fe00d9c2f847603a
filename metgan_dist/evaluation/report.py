"""From per-tile scores to what people read: table, tests, grid; written beside the run and logged to MLflow."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from metgan_dist.cluster.progress import duration
from metgan_dist.evaluation.comparison import UNVERIFIED, Comparison, compare
from metgan_dist.evaluation.runs import TrainedRun
from metgan_dist.evaluation.scoring import REAL, Scoring, score_methods
from metgan_dist.evaluation.tables import BETTER, WORSE, Line, Table, aligned
from metgan_dist.figures import by_channel, image_grid
from metgan_dist.recipe import Scores
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.scores.column import Column
from metgan_dist.scores.fidelity import doubt
from metgan_dist.scores.scored import Scored
from metgan_dist.scores.significance import least_pairs
from metgan_dist.tasks import GENERATED, Task
from metgan_dist.tasks.pictures import picture_rows

_TESTS = {"t": "paired t-test", "wilcoxon": "Wilcoxon's signed-rank test"}
SMALL_FOR_FID = 2048


@dataclass(frozen=True)
class Entry:
    """A line that the table shall have: a run, or why there is none; and what a study says of it."""

    label: str
    run: TrainedRun | None
    ticks: Mapping[str, bool | str] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)
    failed: str | None = None


@dataclass(frozen=True)
class Subject:
    """What is scored with what: the task on its tiles, those that are scored, the judge, the scores, why some are not.

    judge: checkpoint of the one that finds labels in everybody's images, None where there is none.
    """

    task: Task
    rows: np.ndarray
    judge: str | None
    settings: Scores
    skipped: Mapping[str, str]


def compare_entries(
    opened: OpenRun,
    entries: Sequence[Entry],
    subject: Subject,
    reference: str,
    title: str,
    notes: Sequence[str] = (),
) -> tuple[Comparison, Table, bytes]:
    """Score the entries' runs on the cluster: their comparison, the table, and a grid of their images (PNG).

    `reference` is the label that the others are tested against, `notes` go below the table's own.
    """
    runs = {entry.label: entry.run for entry in entries if entry.run is not None}
    task, tiles, recipe = subject.task, subject.task.tiles, opened.recipe
    shown = picture_rows(tiles, subject.rows, subject.settings.pictures)
    names = tuple(name for name in subject.settings.names if name not in subject.skipped)
    judges = {} if subject.judge is None else {"judge": subject.judge}
    scoring = Scoring(tiles.uri, task.name, judges, names, recipe.storage.options, recipe.scaling.in_process)
    with opened.result.phase("scores"):
        scored = score_methods(
            {label: run.checkpoint for label, run in runs.items()},
            scoring,
            {**task.compared("test"), GENERATED: subject.rows},
            block=subject.settings.block,
            show=shown.tolist(),
            plan=opened.plan,
            report=say,
        )
    with opened.result.phase("tests"):
        units = task.units(subject.rows, subject.settings.group)
        comparison = compare(scored, units, reference, subject.settings, task.columns)
    own = [*_notes(comparison, subject, next(iter(runs.values()))), *notes]
    left_out = [column for column in task.columns if column.name in subject.skipped]
    columns = sorted([*comparison.columns, *left_out], key=lambda column: _place(column, subject.settings))
    table = Table(title, columns, [_line(entry, comparison, scored) for entry in entries], own)
    return comparison, table, _grid(task, shown, scored)


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


def _notes(comparison: Comparison, subject: Subject, first: TrainedRun) -> list[str]:
    settings, count = subject.settings, len(subject.rows)
    volumes = subject.task.tiles.index["volume"].iloc[subject.rows].nunique()
    notes = [f"{count} test tiles of {volumes} volume(s); images in [-1, 1], so the data range of the scores is 2."]
    notes += subject.task.notes("test")
    notes += significance_notes(comparison, settings)
    if comparison.ceiling is not None and subject.judge is not None:
        notes.append(
            "Label fidelity: pooled Dice of one judge, a segmentor that no training used, against the imposed labels; "
            f"on the real images it reaches {comparison.ceiling:.3f}, beyond which all are equally good. The judge: "
            f"{_shown(subject.judge)}."
        )
    judged = subject.judge is not None and "label_fidelity" in settings.names
    if judged and (reason := doubt(comparison.ceiling)) is not None:
        notes.append(f"{reason[0].upper()}{reason[1:]}.")
    trivial = first.result.get("scores", {}).get("test", {})
    if "affine" in trivial and "mae" in settings.names:
        itself = f"{trivial['identity']['mae']:.4f} for the anatomy image itself, " if "identity" in trivial else ""
        notes.append(
            f"Trivial predictions: MAE {itself}{trivial['affine']['mae']:.4f} for its best affine intensity map."
        )
    if any(column.name.startswith("fid") for column in comparison.columns) and count < SMALL_FOR_FID:
        notes.append(f"FID of {count} tiles is biased upwards: compare it within this table alone; KID is unbiased.")
    notes += [f"{name} left out: {reason}." for name, reason in subject.skipped.items()]
    return notes


def significance_notes(comparison: Comparison, settings: Scores) -> list[str]:
    """On how many independent units marks rest, or why there are none; nothing of a single method."""
    level, units = 1 - settings.confidence, comparison.units
    least = least_pairs(level)
    if len(comparison.values) < 2:
        return []
    if units.count < least:
        return [
            f"No differences are marked: the tiles are of {units}, and fewer than {least} independent pairs cannot "
            f"reach p < {level:.2g} (Wilcoxon's signed-rank test). Bold: best. Intervals: table.csv."
        ]
    if not len(comparison.tests):
        return []
    notes = [
        f"{WORSE} worse, {BETTER} better than {comparison.reference}: {_TESTS[settings.test]} over {units}, "
        f"Holm-corrected, p < {level:.2g}. Bold: best. Intervals and effect sizes: table.csv."
    ]
    if comparison.labelled_units is not None and comparison.labelled_units < least:
        notes.append(
            f"Label fidelity is not marked: labels lie in {comparison.labelled_units} of them alone, too few to tell."
        )
    return notes


def _shown(checkpoint: str) -> str:
    """A checkpoint as <run>/train/<role>/<name>: tables are read on other machines."""
    return "/".join(checkpoint.rstrip("/").split("/")[-4:])


def _grid(task: Task, rows: np.ndarray, scored: Mapping[str, Scored]) -> bytes:
    """What tiles hold (figure 4 of paper 1: anatomy, imposed label, real image), then every method; a tile a row."""
    columns = task.given(rows)
    channels = task.tiles.channels(task.shown_as.get(GENERATED, "label"))
    for label, method in scored.items():
        if label != REAL:
            columns |= by_channel(label, [method.pictures[int(row)] for row in rows], channels)
    return image_grid(columns)


def write_report(
    opened: OpenRun,
    comparison: Comparison,
    table: Table,
    sections: Sequence[str],
    grid: bytes,
    folder: str = "",
) -> None:
    """Print the table, with `sections` below; write and log it as table.md, .csv and .tex, and what stands behind it.

    Beside it go significance.csv, scores.parquet (tile by tile) and grid.png, in `folder` of the run.
    """
    packed = io.BytesIO()
    comparison.per_tile.to_parquet(packed, index=False)
    markdown = "\n".join([table.markdown(), *sections])
    files = {
        "table.md": markdown.encode(),
        "table.csv": table.csv().encode(),
        "table.tex": table.latex().encode(),
        **({"significance.csv": comparison.tests.to_csv(index=False).encode()} if len(comparison.tests) else {}),
        "scores.parquet": packed.getvalue(),
        "grid.png": grid,
    }
    opened.keep({str(PurePosixPath(folder, name)): content for name, content in files.items()})
    opened.result.scores["test"] = {
        label: {name: value.value for name, value in values.items()} for label, values in comparison.values.items()
    }
    say(f"\n{markdown}")
