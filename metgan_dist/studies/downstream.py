"""The study of table 4 and figure 7: what segmentors gain from synthetic tiles, real tiles, and mixtures of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from metgan_dist.errors import UserError
from metgan_dist.main_job import check_paired_tiles, prepare_tiles
from metgan_dist.recipe import Recipe
from metgan_dist.runs.child_runs import child_recipe, result_of, trainings_at_once
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.open_run import OpenRun, is_tile_set, resolved
from metgan_dist.segmentation.datasets import check_datasets, open_datasets
from metgan_dist.segmentation.folds import planned_folds
from metgan_dist.studies.downstream_report import report_rows
from metgan_dist.studies.rows import carry_out_rows, stop_if_failed
from metgan_dist.studies.study import Study
from metgan_dist.tiles.tile_set import TileSet


@dataclass(frozen=True)
class DownstreamRun:
    """A downstream study that can be carried out: `script` is the job of a row, segment_folds.py."""

    name: str
    study: Study
    recipes: dict[str, Recipe]
    script: Path

    @staticmethod
    def planned(name: str, study: Study, command: Command, script: Path) -> DownstreamRun:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit."""
        recipes = study.recipes(command)
        tiles = None
        if is_tile_set(command.recipe):
            tiles = TileSet.open(str(command.recipe.data.path), command.recipe.storage.options)
        for row in study.rows:
            for section in ("data", "tiles"):
                if section in row.recipe:
                    raise UserError(
                        f"--study: row {row.name} sets {section}, but rows of {study.job} share their tiles"
                    )
        _check_rows(study, recipes, tiles)
        return DownstreamRun(name, study, recipes, script)

    @staticmethod
    def check(recipe: Recipe) -> None:
        """UserError for tiles that the study's rows cannot train on, before any work."""
        check_paired_tiles(recipe)

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job; raises TrainingStopped at its end when rows failed."""
        tiles = prepare_tiles(opened)
        _check_rows(self.study, self.recipes, tiles)
        trainings = trainings_at_once(opened.plan, opened.recipe.scaling)
        folds = len(opened.recipe.segmentation.folds) or int(tiles.index["fold"].max()) + 1
        # First the folds of a row side by side, then rows, where there is room for more.
        at_once = min(len(self.recipes), max(1, trainings // folds))
        rows = {
            name: child_recipe(opened, name, on_tiles(recipe, tiles, trainings // at_once), at_once)
            for name, recipe in self.recipes.items()
        }
        failed = carry_out_rows(opened, self.study, rows, self.script, at_once)
        results = {name: result_of(recipe) for name, recipe in rows.items() if name not in failed}
        report_rows(opened, self.study, {name: one for name, one in results.items() if one}, failed, self.name)
        stop_if_failed(self.study, rows, failed)


def _check_rows(study: Study, recipes: Mapping[str, Recipe], tiles: TileSet | None) -> None:
    """What the job of a row would refuse, as far as that is known while there are no tiles yet."""
    checked: set[str] = set()
    for row in study.rows:
        recipe = recipes[row.name]
        try:
            datasets = open_datasets(recipe)
            if tiles is None:
                continue
            planned_folds(tiles, datasets, resolved(on_tiles(recipe, tiles, 1)))
            check_datasets([dataset for dataset in datasets if dataset.uri not in checked], tiles, recipe)
        except UserError as error:
            raise UserError(f"--study: row {row.name}: {error}") from error
        checked |= {dataset.uri for dataset in datasets}


def on_tiles(recipe: Recipe, tiles: TileSet, trainings: int) -> Recipe:
    """A row's recipe on the tiles that all rows share, training so many folds at once."""
    data = recipe.data.model_copy(update={"path": tiles.uri, "volumes": []})
    scaling = recipe.scaling.model_copy(update={"trainings": trainings})
    return recipe.model_copy(update={"data": data, "scaling": scaling})
