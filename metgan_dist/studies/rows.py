"""The rows of a study as runs of their own, however the study compares them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from metgan_dist.errors import TrainingStopped
from metgan_dist.recipe import Recipe
from metgan_dist.runs.child_runs import child_job, folder_of, is_finished, run_jobs
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
    sources = {name: _awaited(study, todo, name) for name in todo}
    jobs = {name: child_job(script, study.row(name).label, todo[name], sources[name]) for name in todo}
    with opened.result.phase("rows"):
        return run_jobs(jobs, at_once, here=opened.recipe.scaling.in_process)


def _awaited(study: Study, todo: Mapping[str, Recipe], name: str) -> tuple[str, ...]:
    """The rows that a row takes stages from, unless the user named other runs for them."""
    taken = todo[name].training.stages_from
    rows = study.row(name).stages_from.items()
    return tuple(row for stage, row in rows if row in todo and taken.get(stage) == todo[row].tracking.run)


def stop_if_failed(study: Study, rows: Mapping[str, Recipe], failed: Mapping[str, str]) -> None:
    """TrainingStopped, naming the rows that failed and why, if there are any."""
    if failed:
        reasons = "; ".join(f"{study.row(name).label} ({reason})" for name, reason in failed.items())
        raise TrainingStopped(f"{len(failed)} of {len(rows)} rows failed: {reasons}")
