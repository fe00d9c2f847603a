"""The runs of a study with steps: each step's and row's recipe, once what it takes of others is there, and its run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from metgan_dist.errors import UserError
from metgan_dist.recipe import Data, Recipe
from metgan_dist.runs.child_runs import ChildJob, child_recipe, is_finished, run_jobs
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.storage import absolute, exists, join, parent, write_whole
from metgan_dist.studies.described import PAIRS, TRAINING_LABELS, pairs, training_labels
from metgan_dist.studies.downstream import on_tiles
from metgan_dist.studies.steps import DATA, Step, tree_of
from metgan_dist.studies.study import Row, Study
from metgan_dist.tiles.tile_set import MANIFEST, TileSet
from metgan_dist.trained import read_result
from metgan_dist.volumes.dataset import DESCRIPTION, resolve_data


@dataclass(frozen=True)
class Works:
    """Steps and rows of a study under an open run, `at_once` at a time.

    recipes: of the rows, on whatever tiles; place: of the study's data set; taken: folders of finished runs that stand
    for a step or row; jobs: the folder of the scripts.
    """

    study: Study
    command: Command
    recipes: Mapping[str, Recipe]
    opened: OpenRun
    place: str
    taken: Mapping[str, str]
    jobs: Path
    at_once: int

    @property
    def works(self) -> dict[str, Step | Row]:
        """All steps and rows, sources first."""
        return works_of(self.study)

    def folder(self, name: str) -> str:
        """Of the run of a step or row."""
        run = self.opened.run
        return self.taken.get(name) or join(parent(run.folder), f"{run.name}-{name}")

    def result(self, name: str) -> dict[str, Any] | None:
        """The result of a step or row that has finished, else None."""
        result = read_result(self.folder(name), self.opened.recipe.storage.options)
        return result if result is not None and result.get("status") == "finished" else None

    def value(self, reference: str) -> str:
        """What NAME or NAME.ARTEFACT stands for, and `data`, the study's data set; UserError where that is not there.

        Two artefacts are data sets that are described here (`described.py`): `training_labels` of tiles, and `pairs` of
        synthetic volumes.
        """
        if reference == DATA:
            return self.place
        name, _, artefact = reference.partition(".")
        if not artefact:
            return self.folder(name)
        if artefact in (TRAINING_LABELS, PAIRS):
            return self._described(name, artefact)
        made = (self.result(name) or {}).get("artefacts", {})
        if artefact not in made:
            raise UserError(f"{self.folder(name)}: its result names no {artefact!r}; take another run for {name!r}")
        return str(made[artefact])

    def tiles(self, name: str) -> TileSet:
        """The tiles that a step has cut."""
        return TileSet.open(self.value(f"{name}.tiles"), self.opened.recipe.storage.options)

    def run(self, names: Collection[str]) -> dict[str, str]:
        """Run these, each after those that it needs; why some failed. What stands for one is not run."""
        known = {name: work for name, work in self.works.items() if name in names and name not in self.taken}
        jobs = {
            name: ChildJob(
                self.jobs / f"{self.job_of(work)}.py",
                work.label,
                partial(self._to_do, work),
                tuple(source for source in self.needs(work) if source in known),
            )
            for name, work in known.items()
        }
        return run_jobs(jobs, self.at_once, here=self.opened.recipe.scaling.in_process)

    def job_of(self, work: Step | Row) -> str:
        """The job that a step or row is a run of."""
        return work.job if isinstance(work, Step) else self.study.job

    def needs(self, work: Step | Row) -> list[str]:
        """The steps and rows that have to be done before it."""
        rests = [self.study.tiles] if isinstance(work, Row) and self.study.tiles else []
        return [*rests, *work.sources]

    def _to_do(self, work: Step | Row) -> Recipe | None:
        """The recipe of a run that is to be carried out; None where it has finished already."""
        own = self._row(work) if isinstance(work, Row) else self._step(work)
        recipe = child_recipe(self.opened, work.name, own, self.at_once)
        if is_finished(self.job_of(work), recipe):
            say(f"{work.label}: finished already")
            return None
        return recipe

    def _described(self, name: str, what: str) -> str:
        """Write the description of a data set that is made of a step's into the study's own folder; the folder."""
        options = self.opened.recipe.storage.options
        base = resolve_data(Data(path=self.place), options)
        if what == TRAINING_LABELS:
            tree = training_labels(self.tiles(name), str(base.path))
        else:
            made = resolve_data(Data(path=self.value(f"{name}.dataset")), options)
            tree = pairs(made, base)
        folder = join(self.opened.run.folder, f"{name}-{what}")
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        write_whole(join(folder, DESCRIPTION), text.encode(), options)
        return folder

    def _values(self, work: Step | Row) -> dict[str, str | list[str]]:
        return {
            field: self.value(one) if isinstance(one, str) else [self.value(each) for each in one]
            for field, one in work.takes.items()
        }

    def _row(self, row: Row) -> Recipe:
        assert self.study.tiles is not None
        recipe = on_tiles(self.recipes[row.name], self.tiles(self.study.tiles), 1)
        sections = {
            name: type(part).model_validate({**part.model_dump(), **fields})
            for name, fields in tree_of(self._values(row)).items()
            for part in [getattr(recipe, name)]
        }
        return recipe.model_copy(update=sections)

    def _step(self, step: Step) -> Recipe:
        taken = self._values(step)
        command = self.study.on_part(self.command, step.preset, self._given(taken.pop("data.path", None)))
        tree = tree_of(taken)
        own = {name: {**step.recipe.get(name, {}), **tree.get(name, {})} for name in {**step.recipe, **tree}}
        recipe = command.varied(own)
        return recipe if step.split_of is None else on_sides_of(recipe, self.tiles(step.split_of))

    def _given(self, path: Any) -> dict[str, Any]:
        """The command's flags for a step on its own data, or on the study's: what another step made says itself."""
        flags = self.command.given
        if path is None:
            return {**flags, "data": {**flags.get("data", {}), "path": self.place}}
        own = "tiles" if exists(join(path, MANIFEST), self.opened.recipe.storage.options) else "data"
        return {**{name: fields for name, fields in flags.items() if name not in ("data", own)}, "data": {"path": path}}


def works_of(study: Study) -> dict[str, Step | Row]:
    """All steps and rows of a study by name, sources first."""
    listed: list[Step | Row] = [*study.steps, *study.rows]
    return {work.name: work for work in listed}


def on_sides_of(recipe: Recipe, tiles: TileSet) -> Recipe:
    """A recipe whose volumes lie on the sides of the split on which the tiles of the same data set have them.

    Volumes of which there are no tiles are left out. UserError where a volume lies on several sides.
    """
    sides = tiles.index.groupby("volume")["split"].unique()
    parted = sides[sides.map(len) > 1]
    if len(parted):
        raise UserError(
            f"tiles.split_by: volume {parted.index[0]!r} lies on several sides of the split of {tiles.uri}; set it to "
            "volume"
        )
    data = resolve_data(recipe.data, recipe.storage.options)
    volumes = [
        entry.model_copy(update={"split": str(sides[entry.id][0])}) for entry in data.volumes if entry.id in sides.index
    ]
    return recipe.model_copy(update={"data": data.model_copy(update={"volumes": volumes})})


def taken_runs(command: Command, study: Study) -> dict[str, str]:
    """The folders of the flag --take, by step or row; UserError for a name that is none, and a run that is not done."""
    works = {name: work.job if isinstance(work, Step) else study.job for name, work in works_of(study).items()}
    found = {}
    for text in command.own.get("take", []):
        name, _, run = text.partition("=")
        if name not in works or not run:
            raise UserError(f"--take: {text!r}: write STEP=RUN; there are {', '.join(works)}")
        options = command.recipe.storage.options
        places = [absolute(join(command.recipe.storage.path, run)), absolute(run)]
        result, folder = next(
            ((there, place) for place in places if (there := read_result(place, options)) is not None), ({}, run)
        )
        if result.get("status") != "finished" or result.get("job") != works[name]:
            raise UserError(f"--take: {run}: no finished run of {works[name]}, which step {name!r} is; name one")
        found[name] = folder
    return found
