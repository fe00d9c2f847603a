"""A whole study: make what its rows share, train every row as a run of its own, compare them in the paper's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from metgan_dist.errors import UserError
from metgan_dist.evaluation.comparison import Comparison, mark, tests_against
from metgan_dist.evaluation.report import Entry, Subject, compare_entries, costs, write_report
from metgan_dist.evaluation.runs import read_run, shared_test_tiles
from metgan_dist.evaluation.scoring import unusable_scores
from metgan_dist.evaluation.tables import ABSENT, aligned
from metgan_dist.main_job import check_paired_tiles, check_two_domains
from metgan_dist.methods import check_methods, check_named_segmentors, method_class, needs_segmentor
from metgan_dist.recipe import Recipe, Scores
from metgan_dist.runs.child_runs import child_recipe, folder_of, result_of, trainings_at_once
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun, resolved
from metgan_dist.studies.downstream import DownstreamRun
from metgan_dist.studies.preparation import StudyInputs, prepare
from metgan_dist.studies.rows import carry_out_rows, stop_if_failed
from metgan_dist.studies.shown import SCORES
from metgan_dist.studies.stepped import SteppedRun
from metgan_dist.studies.study import Row, Study, asked_study, check_concerned, own_settings, unconcerned
from metgan_dist.studies.whole_volumes import report_volumes
from metgan_dist.tasks import task_of
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.trained import find_stages, find_start
from metgan_dist.training.choice import Choice
from metgan_dist.training.schedule import Length, check_stages


def planned_study(command: Command, jobs: Path) -> StudyRun | DownstreamRun | SteppedRun:
    """The study that the command names, after everything that can be checked before a cluster is touched.

    `jobs` is the folder of the scripts that its rows run. A dry run prints what the rows have of their own. Flags that
    do not concern all rows are told.
    UserError in one line for what does not fit.
    """
    name, study = asked_study(command)
    kind: type[DownstreamRun] | type[StudyRun] | type[SteppedRun] = StudyRun
    if study.steps:
        kind = SteppedRun
    elif study.job == "segment_folds":
        kind = DownstreamRun
    planned = kind.planned(name, study, command, jobs / f"{study.job}.py")
    check_concerned(command, planned.recipes)
    for line in unconcerned(command, planned.recipes):
        say(line)
    if command.dry_run:
        say(own_settings(planned.recipes, command.recipe))
    return planned


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
    def planned(name: str, study: Study, command: Command, script: Path) -> StudyRun:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit."""
        recipes = _without_unused(study.recipes(command))
        for row in study.rows:
            _check(row, recipes[row.name])
        settings = command.recipe.scores
        given = {**command.preset.get("scores", {}), **command.given.get("scores", {})}
        scores = settings if "names" in given else settings.model_copy(update={"names": study.scores})
        check_scores(study, scores.names)
        if "splits" not in given:  # the table shows no others, and tiles of unseen volumes may be many
            recipes = {name: _on_test_tiles(recipe) for name, recipe in recipes.items()}
        if study.scored == "volumes":
            study = study.model_copy(update={"scores": scores.names})
            return StudyRun(name, study, recipes, settings, {}, script)
        dimensions = resolved(next(iter(recipes.values()))).tiles.dimensions
        skipped = unusable_scores(scores.names, scores.missing_weights, dimensions)
        return StudyRun(name, study, recipes, scores, skipped, script)

    def check(self, recipe: Recipe) -> None:
        """UserError for tiles that the study's rows cannot train on, before any work."""
        if self.study.scored == "volumes":
            check_two_domains(recipe)
        else:
            check_paired_tiles(recipe)

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job; raises TrainingStopped at its end when rows failed."""
        prepared = prepare(opened, {name: self._with_sources(name, opened.run.name) for name in self.recipes})
        at_once = min(len(self.recipes), trainings_at_once(opened.plan, opened.recipe.scaling))
        rows = {name: child_recipe(opened, name, recipe, at_once) for name, recipe in prepared.recipes.items()}
        say(_steps(rows, prepared.tiles))
        failed = carry_out_rows(opened, self.study, rows, self.script, at_once)
        self._report(opened, prepared, rows, failed)
        stop_if_failed(self.study, rows, failed)

    def _report(
        self, opened: OpenRun, prepared: StudyInputs, rows: Mapping[str, Recipe], failed: Mapping[str, str]
    ) -> None:
        """Compare the finished rows, beside the paper's numbers; the table is printed, written and logged."""
        if self.study.scored == "volumes":
            results = {name: result_of(recipe) for name, recipe in rows.items() if name not in failed}
            finished = {name: result for name, result in results.items() if result is not None}
            report_volumes(opened, self.study, prepared.tiles, finished, failed, self.name)
            return
        entries = []
        for row in self.study.rows:
            recipe = rows[row.name]
            trained = None if row.name in failed else read_run(folder_of(recipe), recipe, label=row.label)
            entries.append(Entry(row.label, trained, row.ticks, self.study.paper(row), failed.get(row.name)))
        runs = [entry.run for entry in entries if entry.run is not None]
        if not runs:
            return
        task, test_rows = shared_test_tiles(runs, opened.recipe)
        subject = Subject(task, test_rows, {"judge": prepared.judge}, self.scores, self.skipped)
        reference = self._reference({run.label for run in runs})
        compared = compare_entries(opened, entries, subject, reference, self.study.title, self.study.notes)
        sections = [costs(entries)]
        against = {row.label: self.study.row(row.against).label for row in self.study.rows if row.against}
        sections += differences(compared.comparison, against, self.scores)
        write_report(opened, compared, sections, self.name)

    def _with_sources(self, name: str, run: str) -> Recipe:
        """A row's recipe with the runs, beside that of the study, that it takes stages from."""
        taken = {stage: f"{run}-{row}" for stage, row in self.study.row(name).stages_from.items()}
        return with_stages_from(self.recipes[name], taken)

    def _reference(self, finished: set[str]) -> str:
        """The label of the row that the others are tested against; another one where that row failed."""
        wanted = self.scores.reference
        labels = [row.label for row in self.study.rows if wanted in (row.name, row.label)]
        if wanted is not None and not labels:
            raise UserError(f"scores.reference: {wanted!r} is no row of the study")
        label = labels[0] if labels else self.study.row(self.study.reference).label
        return label if label in finished else next(r.label for r in self.study.rows if r.label in finished)


def _on_test_tiles(recipe: Recipe) -> Recipe:
    """The recipe of a training that is scored on its test tiles alone."""
    return recipe.model_copy(update={"scores": recipe.scores.model_copy(update={"splits": ("test",)})})


def _steps(rows: Mapping[str, Recipe], tiles: TileSet) -> str:
    """How many optimiser steps each row takes, in words: what a study costs, as far as it is known before."""
    steps = {}
    for name, recipe in rows.items():
        method, workers = method_class(recipe.method.name), recipe.scaling.processes
        drawn = task_of(method, tiles).drawn(recipe)
        length = Length.of(recipe.training, drawn.epoch, workers, stages=method.stages(recipe))
        steps[name] = length.total // length.step
    each = ", ".join(f"{name} {count}" for name, count in steps.items())
    return f"steps: {each}; {sum(steps.values())} in all"


def with_stages_from(recipe: Recipe, taken: Mapping[str, str]) -> Recipe:
    """The recipe of a row that takes stages from these runs, or from those that the user names; they have no length."""
    training = recipe.training
    sources = {**taken, **training.stages_from}
    own = {name: epochs for name, epochs in training.stages.items() if name not in sources}
    update = {"stages": own, "stages_from": sources}
    return recipe.model_copy(update={"training": training.model_copy(update=update)})


def check_scores(study: Study, names: Sequence[str]) -> None:
    """UserError for a score that a study of the job on tiles, or on volumes, does not have."""
    known = SCORES[study.job, study.scored]
    if strange := next((name for name in names if name not in known), None):
        raise UserError(
            f"scores.names: {strange} is no score of a study that is scored on {study.scored}; use {', '.join(known)}"
        )


def _without_unused(recipes: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """The rows' recipes, of which those whose methods are trained without a segmentor name none, as a line says.

    Where no row is trained with one, they are as they were, for `_check` to refuse.
    """
    unused = [name for name, one in recipes.items() if one.method.segmentor and not needs_segmentor(one)]
    if not unused or len(unused) == len(recipes):
        return dict(recipes)
    say(f"method.segmentor: not for {', '.join(unused)}, whose methods are trained without a segmentor")
    without = {
        name: recipes[name].model_copy(update={"method": recipes[name].method.model_copy(update={"segmentor": None})})
        for name in unused
    }
    return {**recipes, **without}


def _check(row: Row, recipe: Recipe) -> None:
    """What a row's own job would refuse, and settings that tiles which are cut already would not follow."""
    try:
        complete = resolved(recipe)
        check_methods(complete, complete.tiles.shape)
        check_named_segmentors(complete)
        Choice.of(complete)
        check_stages(with_stages_from(complete, row.stages_from))
        find_start(complete)
        find_stages(complete)
    except UserError as error:
        raise UserError(f"--study: row {row.name}: {error}") from error
    for section in ("data", "tiles"):
        for field in row.recipe.get(section, {}):
            if getattr(getattr(complete, section), field) != getattr(getattr(recipe, section), field):
                raise UserError(
                    f"data.path: row {row.name} sets {section}.{field}, which finished tiles cannot follow; "
                    "give the volumes that they were cut from"
                )


def differences(comparison: Comparison, against: Mapping[str, str], settings: Scores) -> list[str]:
    """A Markdown table of the pairs (label -> label to subtract) that were both scored, or nothing without any.

    Marks are those of the pair's own paired test.
    """
    pairs = {one: other for one, other in against.items() if {one, other} <= comparison.values.keys()}
    if not pairs:
        return []
    header = ["Difference", *(f"{column.title} {column.arrow}" for column in comparison.columns)]
    rows = []
    for one, other in pairs.items():
        both = comparison.per_tile[comparison.per_tile["method"].isin([one, other])]
        tests = tests_against(both, other, settings)
        cells = []
        for column in comparison.columns:
            first, second = (comparison.values[label].get(column.name) for label in (one, other))
            if first is None or second is None:
                cells.append(ABSENT)
                continue
            change = first.value - second.value
            tied = column.tie(first.value, second.value)
            sign = "" if tied else mark(tests, one, column, settings).replace("*", r"\*")
            cells.append(f"{change:+.{column.digits}f}{sign}")
        rows.append([f"{one} - {other}", *cells])
    return [aligned([header, *rows])]
