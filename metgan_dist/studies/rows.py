"""The rows of a study as runs of their own, however the study compares them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from metgan_dist.errors import TrainingStopped
from metgan_dist.recipe import Recipe
from metgan_dist.runs.child_runs import folder_of, is_finished, run_child_jobs
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.studies.study import Study


def carry_out_rows(
    opened: OpenRun, study: Study, rows: Mapping[str, Recipe], script: Path, at_once: int
) -> dict[str, str]:
    """Run the rows (recipes by name) that have not finished, `at_once` at a time; the reasons of those that failed.

    A row waits for those that it takes stages from, and fails where one of them has.
    """
    opened.result.artefacts["rows"] = {name: folder_of(recipe) for name, recipe in rows.items()}
    todo = {name: recipe for name, recipe in rows.items() if not is_finished(study.job, recipe)}
    for name in rows.keys() - todo.keys():
        say(f"{study.row(name).label}: finished already")
    if todo:
        say(f"rows: {len(todo)} to train, {min(len(todo), at_once)} at once")
    labels = {name: study.row(name).label for name in todo}
    failed: dict[str, str] = {}
    with opened.result.phase("rows"):
        for wave in _waves(study, todo):
            sources = {name: study.row(name).stages_from.values() for name in wave}
            lost = {name: source for name, taken in sources.items() for source in taken if source in failed}
            failed |= {name: f"its stage of {study.row(source).label} failed" for name, source in lost.items()}
            failed |= run_child_jobs(script, {name: todo[name] for name in wave if name not in lost}, labels, at_once)
    return failed


def _waves(study: Study, todo: Collection[str]) -> list[list[str]]:
    """The rows in groups, each of which takes stages from rows of earlier groups, or of finished ones, alone."""
    depth: dict[str, int] = {}
    for row in study.rows:  # a row's sources are above it
        if row.name in todo:
            depth[row.name] = 1 + max((depth[name] for name in row.stages_from.values() if name in depth), default=0)
    return [[name for name, own in depth.items() if own == level] for level in sorted(set(depth.values()))]


def stop_if_failed(study: Study, rows: Mapping[str, Recipe], failed: Mapping[str, str]) -> None:
    """TrainingStopped, naming the rows that failed and why, if there are any."""
    if failed:
        reasons = "; ".join(f"{study.row(name).label} ({reason})" for name, reason in failed.items())
        raise TrainingStopped(f"{len(failed)} of {len(rows)} rows failed: {reasons}")
