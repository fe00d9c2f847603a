"""Table 4 and figure 7 of paper 1 on one's own data, from the results of the rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from metgan_dist.cluster.progress import duration
from metgan_dist.errors import UserError
from metgan_dist.evaluation.tables import Line, Table, Value, aligned
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.scores.column import Column
from metgan_dist.segmentation.figures import Point, size_curves
from metgan_dist.segmentation.summary import STRATA, TITLES, basis, counted, origin_notes, rule
from metgan_dist.studies.study import Row, Study

COLUMNS = {name: Column(name, TITLES[name], "max") for name in ("dice", "precision", "recall", "jaccard", "voxel_dice")}
FIGURE = ("dice", "precision", "recall", "jaccard")
COUNTS = ("found", "missed", "false_positives")


def report_rows(
    opened: OpenRun, study: Study, results: Mapping[str, dict[str, Any]], failed: Mapping[str, str], folder: str
) -> None:
    """Table 4 beside the paper's, ranges and recalls below it, figure 7; printed, written and logged."""
    if not results:
        return
    _check_counts(results)
    table = _table(study, results, failed)
    shown = {row.label: results[row.name] for row in study.rows if row.name in results}
    text = "\n".join([table.markdown(), _ranges(shown), _recalls(shown), _costs(shown), *_origins(shown)])
    title = f"mean over folds; bands: minimum to maximum; {_tests(shown)}"
    files = {
        "table.md": text.encode(),
        "table.csv": table.csv().encode(),
        "table.tex": table.latex().encode(),
        "figure.png": size_curves(_curves(results), title),
    }
    opened.keep({str(PurePosixPath(folder, name)): content for name, content in files.items()})
    opened.result.scores["test"] = {
        name: {score: result["scores"]["test"][score] for score in COLUMNS} for name, result in results.items()
    }
    say(f"\n{text}")


def _check_counts(results: Mapping[str, dict[str, Any]]) -> None:
    """UserError for a row of an earlier version, which counted a lesion once for every tile that it lies in."""
    for name, result in results.items():
        if "unit" not in result["scores"]["test"]:
            raise UserError(
                f"row {name}: run {result['run']} counted lesions once per overlapping tile, as earlier versions did; "
                "start the study under another --tracking.run to score all rows alike"
            )


def _table(study: Study, results: Mapping[str, dict[str, Any]], failed: Mapping[str, str]) -> Table:
    columns = [COLUMNS[name] for name in study.scores if name in COLUMNS]
    lines = [_line(study, row, results.get(row.name), failed.get(row.name)) for row in study.rows]
    scored = _test_scores(results)
    own = [
        f"Means over folds, on {_tests(results)}. Bold: best. Minimum and maximum: below, and table.csv.",
        rule(scored["unit"]),
        basis(scored),
    ]
    return Table(study.title, columns, lines, [*own, *study.notes], subject="Samples")


def _line(study: Study, row: Row, result: dict[str, Any] | None, failed: str | None) -> Line:
    paper = study.paper(row)
    if result is None:
        return Line(row.label, ticks=row.ticks, paper=paper, failed=failed or "not trained")
    scores, samples = result["scores"]["test"], result["artefacts"]["samples"]
    values = {
        name: Value(scores[name]["mean"], scores[name]["min"], scores[name]["max"])
        for name in COLUMNS
        if name in scores
    }
    counts = {name: scores[name]["mean"] for name in COUNTS}
    more: dict[str, float | str] = {
        **{f"{kind}_tiles": number for kind, number in samples.items()},
        **counts,
        "images": result["artefacts"]["images"],
        "stopped_early": result["artefacts"]["stopped_early"],
        "run": result["run"],
        "mlflow_run_id": str(result["mlflow_run_id"]),
    }
    return Line(row.label, values, row.ticks, paper, more)


def _tests(results: Mapping[str, dict[str, Any]]) -> str:
    scores = _test_scores(results)
    return f"{counted(scores)}, on {scores['tiles']} test tiles"


def _test_scores(results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Those of the first row; all rows are scored on the same tiles."""
    scores: dict[str, Any] = next(iter(results.values()))["scores"]["test"]
    return scores


def _ranges(results: Mapping[str, dict[str, Any]]) -> str:
    """Markdown: training tiles, Dice and counts of lesions with minimum and maximum over folds."""
    rows = [["Samples", "real tiles", "synthetic", "Dice min-max", *(TITLES[name] for name in COUNTS)]]
    for label, result in results.items():
        scores, samples = result["scores"]["test"], result["artefacts"]["samples"]
        counts = [f"{scores[n]['mean']:.4g} ({scores[n]['min']:.4g}-{scores[n]['max']:.4g})" for n in COUNTS]
        dice = f"{scores['dice']['min']:.3f}-{scores['dice']['max']:.3f}"
        rows.append([label, *(f"{samples[kind]:.4g}" for kind in ("real", "synthetic")), dice, *counts])
    return aligned(rows)


def _recalls(results: Mapping[str, dict[str, Any]]) -> str:
    """Markdown: mean recall of lesions by size and brightness; they are the same lesions in every row."""
    strata = {label: result["scores"]["test"]["strata"] for label, result in results.items()}
    first = next(iter(strata.values()))
    columns = [(by, number) for by in STRATA for number in first[by]]
    header = [f"{by} {first[by][number]['low']:.4g}-{first[by][number]['high']:.4g}" for by, number in columns]
    rows = [["Recall by", *header]]
    for label, groups in strata.items():
        rows.append([label, *(f"{groups[by][number]['recall']['mean']:.3f}" for by, number in columns)])
    return aligned(rows)


def _costs(results: Mapping[str, dict[str, Any]]) -> str:
    """Markdown: what the folds of a row took together."""
    rows = [["Samples", "images seen", "folds stopped early", "training"]]
    for label, result in results.items():
        facts = result["artefacts"]
        rows.append(
            [label, str(facts["images"]), str(facts["stopped_early"]), duration(result["resources"]["seconds"])]
        )
    return aligned(rows)


def _origins(results: Mapping[str, dict[str, Any]]) -> list[str]:
    """How independent each row's synthetic tiles are of its validation tiles, a line each."""
    notes = {label: origin_notes(result["artefacts"].get("origins", [])) for label, result in results.items()}
    return [f"{label}: {note}\n" for label, own in notes.items() for note in own]


def _curves(results: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, list[Point]]]:
    """Figure 7: score -> kind of data -> points over the number of training tiles."""
    curves: dict[str, dict[str, list[Point]]] = {TITLES[name]: {} for name in FIGURE}
    for result in results.values():
        samples = result["artefacts"]["samples"]
        for name in FIGURE:
            score = result["scores"]["test"][name]
            point = Point(sum(samples.values()), score["mean"], score["min"], score["max"])
            curves[TITLES[name]].setdefault(_kind(samples), []).append(point)
    return curves


def _kind(samples: Mapping[str, float]) -> str:
    if not samples["synthetic"]:
        return "real"
    return "real and synthetic" if samples["real"] else "synthetic"
