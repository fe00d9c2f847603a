"""A whole study: make what its rows share, train every row as a run of its own, compare them in the paper's table."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from metgan_dist.command_line import Command
from metgan_dist.errors import TrainingStopped, UserError
from metgan_dist.evaluation.report import Entry, Subject, compare_entries, costs, write_report
from metgan_dist.evaluation.runs import JOB, read_run, shared_test_tiles
from metgan_dist.evaluation.scoring import unusable_scores
from metgan_dist.experiment import Experiment, resolved
from metgan_dist.job import say
from metgan_dist.recipe import Recipe, Scaling, Scores
from metgan_dist.run import open_run
from metgan_dist.studies.children import run_children, termination_as_interrupt
from metgan_dist.studies.differences import differences
from metgan_dist.studies.preparation import Prepared, prepare
from metgan_dist.studies.study import Row, Study, load_study
from metgan_dist.training.cluster import LEAST_DATA_CPUS
from metgan_dist.training.resources import ResourcePlan
from metgan_dist.volumes.location import exists, join, parent, read_bytes


@dataclass(frozen=True)
class StudyRun:
    """A study that can be carried out: `script` is the job that trains a row."""

    name: str
    study: Study
    recipes: dict[str, Recipe]
    scores: Scores
    skipped: Mapping[str, str]
    script: Path

    @staticmethod
    def planned(command: Command, script: Path) -> StudyRun:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit."""
        asked = command.own["study"]
        if len(asked) != 1:
            raise UserError(f"--study: {'none given' if not asked else 'more than one given'}; name one")
        study = load_study(asked[0])
        recipes = study.recipes(command)
        for row in study.rows:
            _check(row, recipes[row.name])
        settings = command.recipe.scores
        given = "names" in {**command.preset.get("scores", {}), **command.given.get("scores", {})}
        scores = settings if given else settings.model_copy(update={"names": study.scores})
        skipped = unusable_scores(scores.names, scores.missing_weights)
        return StudyRun(Path(asked[0]).stem, study, recipes, scores, skipped, script)

    def carry_out(self, experiment: Experiment) -> None:
        """The work of the job; raises TrainingStopped at its end when rows failed."""
        prepared = prepare(experiment, self.recipes)
        at_once = min(len(self.recipes), trainings_at_once(experiment.plan, experiment.recipe.scaling))
        rows = {
            name: self._row_recipe(experiment, name, recipe, 1 / at_once) for name, recipe in prepared.recipes.items()
        }
        experiment.result.artefacts["rows"] = {name: _folder(recipe) for name, recipe in rows.items()}
        todo = {name: recipe for name, recipe in rows.items() if not _finished(recipe)}
        for name in rows.keys() - todo.keys():
            say(f"{self.study.row(name).label}: finished already")
        with experiment.result.phase("rows"):
            failed = self._train(todo, at_once)
        self._report(experiment, prepared, rows, failed)
        if failed:
            reasons = "; ".join(f"{self.study.row(name).label} ({reason})" for name, reason in failed.items())
            raise TrainingStopped(f"{len(failed)} of {len(rows)} rows failed: {reasons}")

    def _row_recipe(self, experiment: Experiment, name: str, recipe: Recipe, share: float) -> Recipe:
        """A row as a run of its own on its share of the cluster, beside the study's folder, under its MLflow run."""
        tracked = {
            "uri": experiment.tracking_uri,
            "run": f"{experiment.run.name}-{name}",
            "parent": experiment.run.mlflow_run_id,
        }
        return recipe.model_copy(
            update={
                "tracking": recipe.tracking.model_copy(update=tracked),
                "storage": recipe.storage.model_copy(update={"path": parent(experiment.run.folder)}),
                "scaling": recipe.scaling.model_copy(update={"cluster": "auto", "share": share}),
            }
        )

    def _train(self, recipes: Mapping[str, Recipe], at_once: int) -> dict[str, str]:
        """Train the rows, `at_once` at a time; returns why some failed."""
        if recipes:
            say(f"rows: {len(recipes)} to train, {min(len(recipes), at_once)} at once")
        labels = {name: self.study.row(name).label for name in recipes}
        environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        with tempfile.TemporaryDirectory(prefix="metgan-study-") as folder, termination_as_interrupt():
            commands = {}
            for name, recipe in recipes.items():
                path = Path(folder) / f"{name}.yaml"
                path.write_text(recipe.to_yaml())
                commands[name] = [sys.executable, str(self.script), "--recipe", str(path)]
            return run_children(commands, at_once, environment, lambda name, line: say(f"[{labels[name]}] {line}"))

    def _report(
        self, experiment: Experiment, prepared: Prepared, rows: Mapping[str, Recipe], failed: Mapping[str, str]
    ) -> None:
        """Compare the finished rows, beside the paper's numbers; the table is printed, written and logged."""
        entries = []
        for row in self.study.rows:
            trained = None if row.name in failed else read_run(_folder(rows[row.name]), rows[row.name], label=row.label)
            entries.append(Entry(row.label, trained, row.ticks, self.study.paper(row), failed.get(row.name)))
        runs = [entry.run for entry in entries if entry.run is not None]
        if not runs:
            return
        tiles, test_rows = shared_test_tiles(runs, experiment.recipe)
        subject = Subject(tiles, test_rows, prepared.judge, self.scores, self.skipped)
        reference = self._reference({run.label for run in runs})
        comparison, table, grid = compare_entries(
            experiment, entries, subject, reference, self.study.title, self.study.notes
        )
        sections = [costs(entries)]
        against = {row.label: self.study.row(row.against).label for row in self.study.rows if row.against}
        sections += differences(comparison, against, self.scores)
        write_report(experiment, comparison, table, sections, grid, self.name)

    def _reference(self, finished: set[str]) -> str:
        """The label of the row that the others are tested against; another one where that row failed."""
        wanted = self.scores.reference
        labels = [row.label for row in self.study.rows if wanted in (row.name, row.label)]
        if wanted is not None and not labels:
            raise UserError(f"scores.reference: {wanted!r} is no row of the study")
        label = labels[0] if labels else self.study.row(self.study.reference).label
        return label if label in finished else next(r.label for r in self.study.rows if r.label in finished)


def _check(row: Row, recipe: Recipe) -> None:
    """What a row's own job would refuse, and settings that tiles which are cut already would not follow."""
    try:
        complete = resolved(recipe)
    except UserError as error:
        raise UserError(f"--study: row {row.name}: {error}") from error
    for section in ("data", "tiles"):
        for field in row.recipe.get(section, {}):
            if getattr(getattr(complete, section), field) != getattr(getattr(recipe, section), field):
                raise UserError(
                    f"data.path: row {row.name} sets {section}.{field}, which finished tiles cannot follow; "
                    "give the volumes that they were cut from"
                )


def trainings_at_once(plan: ResourcePlan, scaling: Scaling) -> int:
    """How many trainings laid out as `plan` the cluster takes side by side, each with its tile tasks; at least one."""
    if scaling.trainings != "auto":
        return scaling.trainings
    by_cpu = plan.cluster_cpus / (plan.workers * plan.cpus_per_worker + LEAST_DATA_CPUS)
    gpus = plan.workers * plan.gpus_per_worker
    # A third of a GPU is 0.333: three of them are meant to fit.
    by_gpu = plan.cluster_gpus / gpus + 1e-6 if gpus else by_cpu
    return max(1, int(min(by_cpu, by_gpu)))


def _folder(recipe: Recipe) -> str:
    assert recipe.tracking.run is not None
    return join(recipe.storage.path, recipe.tracking.run)


def _finished(recipe: Recipe) -> bool:
    """Whether a row's run is done; UserError when its name holds a run of another recipe."""
    folder, options = _folder(recipe), recipe.storage.options
    if not exists(join(folder, "run.json"), options):
        return False
    open_run(JOB, resolved(recipe), "study")
    if not exists(join(folder, "result.json"), options):
        return False
    result: dict[str, Any] = json.loads(read_bytes(join(folder, "result.json"), options))
    return result.get("status") == "finished"
