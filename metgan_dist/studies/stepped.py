"""A study with steps: runs of existing jobs make what its rows share, one from another, then the rows are trained.

First come the tiles that are cut from the study's data set, all with one split; then, before anything is trained, what
rows ask of them is checked. A step or row that has finished is not run again, and one that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from metgan_dist.errors import TrainingStopped, UserError
from metgan_dist.evaluation.segmented_volumes import OVERLAYS
from metgan_dist.lineage.untouched import HELD_OUT
from metgan_dist.main_job import with_phantom
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.methods.singan import SinGANRecipe
from metgan_dist.runs.child_runs import trainings_at_once
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.segmentation.folds import planned_folds
from metgan_dist.storage import absolute, exists, join, parent, read_bytes
from metgan_dist.studies.downstream_report import report_rows
from metgan_dist.studies.epoch_report import report_epochs
from metgan_dist.studies.rows import stop_if_failed
from metgan_dist.studies.step_checks import check_step, is_cut
from metgan_dist.studies.study import Study
from metgan_dist.studies.whole_volumes import report_volumes
from metgan_dist.studies.works import Works, taken_runs
from metgan_dist.tasks.one_image import OneImage
from metgan_dist.tasks.overlays import Overlays, side_by_side
from metgan_dist.tiles.splits import group_of
from metgan_dist.tiles.tile_set import TileSet


@dataclass(frozen=True)
class SteppedRun:
    """A study with steps that can be carried out.

    recipes: of steps and rows by name, as far as they are known before others are done; jobs: the folder of the
    scripts; taken: folders of finished runs that stand for steps or rows.
    """

    name: str
    study: Study
    command: Command
    recipes: dict[str, Recipe]
    jobs: Path
    taken: Mapping[str, str]

    @staticmethod
    def planned(name: str, study: Study, command: Command, script: Path) -> SteppedRun:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit."""
        if study.presets and command.recipe_name not in study.presets:
            raise UserError(
                f"--recipe {command.recipe_name}: the study {name} has the parts "
                f"{', '.join(next(iter(study.presets.values())))}, and presets of them for {', '.join(study.presets)}; "
                "name one of these, or a study of your own"
            )
        taken = taken_runs(command, study)
        recipes = {**study.step_recipes(command), **study.recipes(command)}
        for step in study.steps:
            if step.name not in taken:
                check_step(study, step, recipes)
        return SteppedRun(name, study, command, recipes, script.parent, taken)

    @staticmethod
    def check(recipe: Recipe) -> None:
        """Nothing more: each step's own recipe was checked when the study was planned."""

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job; raises TrainingStopped at its end when steps or rows failed."""
        works = self._works(opened)
        opened.result.artefacts["runs"] = {name: works.folder(name) for name in works.works}
        first = [step.name for step in self.study.steps if is_cut(step)]
        with opened.result.phase("tiles"):
            failed = works.run(first)
        if failed:
            raise TrainingStopped("; ".join(f"{name} failed: {reason}" for name, reason in failed.items()))
        assert self.study.tiles is not None
        tiles = works.tiles(self.study.tiles)
        opened.result.tiles = tiles.manifest["counts"]
        check_one_split(tiles, {name: works.tiles(name) for name in (*first, *self._trained_on(works))})
        self._check_rows(tiles)
        self._check_images(works, first)
        rest = [name for name in works.works if name not in first]
        say(f"steps and rows: {len(rest)}, {works.at_once} at once")
        with opened.result.phase("steps and rows"):
            failed = works.run(rest)
        self._report(opened, works, failed)
        if lost := {name: reason for name, reason in failed.items() if name not in self._rows}:
            reasons = "; ".join(f"{works.works[name].label} ({reason})" for name, reason in lost.items())
            raise TrainingStopped(f"{len(lost)} steps failed, and the rows that need them: {reasons}")
        stop_if_failed(self.study, self._rows, failed)

    @property
    def _rows(self) -> dict[str, Recipe]:
        return {row.name: self.recipes[row.name] for row in self.study.rows}

    def _works(self, opened: OpenRun) -> Works:
        """All runs of the study, on its data set, which is drawn first where that is a phantom."""
        given = self.command.recipe.data.path
        with opened.result.phase("phantom"):
            drawn = with_phantom(opened.recipe, parent(opened.run.folder)).data.path
        trainings = trainings_at_once(opened.plan, opened.recipe.scaling)
        return Works(
            study=self.study,
            command=self.command,
            recipes=self._rows,
            opened=opened,
            place=absolute(str(drawn if given is None else given)),
            taken=self.taken,
            jobs=self.jobs,
            at_once=max(1, min(len(self.recipes), trainings)),
        )

    def _trained_on(self, works: Works) -> list[str]:
        """Runs taken from elsewhere whose models, too, must have been trained on tiles of this split."""
        jobs = {step.name: step.job for step in self.study.steps}
        return [name for name in works.taken if jobs.get(name, "").startswith("train_")]

    def _check_rows(self, tiles: TileSet) -> None:
        """What the rows' own job would refuse of these tiles, before anything is trained that they need."""
        foreground = tiles.index["foreground"].to_numpy()
        if not foreground[tiles.positions("test")].any():
            raise UserError(
                f"data.path: none of the test volumes of {tiles.uri} has a lesion, so there is no Dice to score; the "
                "data set has to hold out some (`split: test`, or tiles.test)"
            )
        for row in self.study.rows if self.study.job == "segment_folds" else ():
            recipe = self.recipes[row.name]
            # Synthetic tiles are not there yet; what a row asks of real ones is to be had in any case.
            real = {"synthetic": 0, "datasets": (), "real": recipe.segmentation.real or 1.0}
            alone = recipe.model_copy(update={"segmentation": recipe.segmentation.model_copy(update=real)})
            try:
                planned_folds(tiles, (), alone)
            except UserError as error:
                raise UserError(f"--study: row {row.name}: {error}") from error

    def _check_images(self, works: Works, cut: Collection[str]) -> None:
        """What a method of one image would refuse of the tiles `cut`, before anything is trained."""
        for step in self.study.steps:
            method, source = self.recipes[step.name].method, step.data_from
            if step.name in self.taken or source not in cut or not isinstance(method, SinGANRecipe):
                continue
            assert source is not None
            try:
                OneImage(works.tiles(source)).row(method.volume, method.plane)
            except UserError as error:
                raise UserError(f"--study: step {step.name}: {error}") from error

    def _report(self, opened: OpenRun, works: Works, failed: Mapping[str, str]) -> None:
        results = {name: result for name in self._rows if (result := works.result(name)) is not None}
        if not results:
            return
        if self.study.scored == "epochs":
            report_epochs(opened, works, results, failed, self.name)
        elif self.study.scored == "volumes":
            tiles, insertion = works.tiles(str(self.study.tiles)), self._insertion(works)
            report_volumes(opened, self.study, tiles, results, failed, self.name, insertion)
            if shown := self._overlays(works, results):
                opened.keep({str(PurePosixPath(self.name, "figure-3.png")): side_by_side(shown)})
        else:
            report_rows(opened, self.study, results, failed, self.name)

    def _overlays(self, works: Works, rows: Collection[str]) -> dict[str, Overlays]:
        """What the rows have found in some test volumes, by label, where they have kept it (figure 3 of paper 3)."""
        options = works.opened.recipe.storage.options
        files = {row.label: join(works.folder(row.name), OVERLAYS) for row in self.study.rows if row.name in rows}
        kept = {label: file for label, file in files.items() if exists(file, options)}
        return {label: Overlays.read(read_bytes(file, options)) for label, file in kept.items()}

    def _insertion(self, works: Works) -> dict[str, Any] | None:
        """Scores of the step whose inserted tumours the study tells of, where that is one of its steps and is done."""
        name = None if self.study.cases is None else self.study.cases.inserted
        if name is None or name not in works.works:
            return None
        return ((works.result(name) or {}).get("scores") or {}).get("insertion")


def check_one_split(tiles: TileSet, others: Mapping[str, TileSet]) -> None:
    """UserError where any tiles (by step) have a patient of these on the other side of what is held out for tests."""
    sides = _held_out(tiles)
    for name, other in others.items():
        theirs = _held_out(other)
        for patient in sides.keys() & theirs.keys():
            if sides[patient] != theirs[patient]:
                words = {True: "held out for the tests", False: "trained on"}
                raise UserError(
                    f"--study: step {name}: {patient} is {words[theirs[patient]]} in {other.uri}, and "
                    f"{words[sides[patient]]} in {tiles.uri}; all of a study's tiles must be cut with one split"
                )


def _held_out(tiles: TileSet) -> dict[str, bool]:
    """Whether each patient (volume, where none is known) is held out for the tests."""
    return dict(tiles.index["split"].isin(HELD_OUT).groupby(group_of(tiles.index)).any())
