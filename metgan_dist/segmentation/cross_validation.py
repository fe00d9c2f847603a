"""What segment_folds.py does: train a segmentor on each fold of mixed tiles, score all of them on the test tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metgan_dist.errors import TrainingStopped, UserError
from metgan_dist.lineage import Tissue, check_start
from metgan_dist.main_job import check_tiles, domain_role, prepare_tiles
from metgan_dist.recipe import Recipe
from metgan_dist.runs.child_runs import (
    child_job,
    child_recipe,
    folder_of,
    is_finished,
    result_of,
    run_jobs,
    trainings_at_once,
)
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun, is_tile_set, resolved
from metgan_dist.segmentation.datasets import check_datasets, of_domain, open_datasets
from metgan_dist.segmentation.epochs import ARTEFACTS, epoch_files
from metgan_dist.segmentation.folds import Fold, find_fold_start, fold_recipe, planned_folds, seen_by_generators
from metgan_dist.segmentation.report import report_folds
from metgan_dist.segmentation.summary import origin_notes
from metgan_dist.storage import join
from metgan_dist.tiles.mixture import write_mixture
from metgan_dist.tiles.splits import fewer_folds
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.tracking import tracking_uri

JOB = "train_segmentor"


def check_folds(recipe: Recipe) -> None:
    """UserError for what keeps the recipe's tiles from being cut, or has no labels in the domain that is segmented."""
    if recipe.training.shares:
        raise UserError(
            "training.shares: folds take a part of their real tiles by segmentation.real, or of their patients by "
            "segmentation.cases; leave it out"
        )
    check_tiles(recipe, [(domain_role(recipe), "label")])


@dataclass(frozen=True)
class CrossValidation:
    """A cross-validation that can be carried out: `script` is the job that trains a fold."""

    datasets: tuple[TileSet, ...]
    script: Path

    @staticmethod
    def planned(command: Command, script: Path) -> CrossValidation:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit."""
        recipe = command.recipe
        datasets = open_datasets(recipe)
        if is_tile_set(recipe):
            assert recipe.data.path is not None
            tiles = TileSet.open(recipe.data.path, recipe.storage.options)
            tiles, own = of_domain(tiles, datasets, recipe)
            check_datasets(own, tiles, recipe)
            complete = resolved(recipe)
            _check_starts(complete, tiles, planned_folds(tiles, own, complete))
        return CrossValidation(datasets, script)

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job; raises TrainingStopped when folds failed, after the others were trained."""
        tiles, datasets = of_domain(prepare_tiles(opened), self.datasets, opened.recipe)
        trained_on = check_datasets(datasets, tiles, opened.recipe)
        folds = planned_folds(tiles, datasets, opened.recipe)
        _check_starts(opened.recipe, tiles, folds)
        few = [] if opened.recipe.segmentation.folds else fewer_folds(tiles.index, tiles.manifest["tiles"]["folds"])
        for line in (*few, *too_small(folds, opened.recipe)):
            say(line)
        with opened.log() as log:
            for dataset, *rows in zip(datasets, *(fold.synthetic for fold in folds), strict=True):
                used = max(len(part) for part in rows)
                log.dataset(dataset.name, dataset.uri, dataset.digest, "training", used)
        recipes = self._recipes(opened, tiles, datasets, folds)
        self._train(opened, recipes)
        results = {fold: result_of(recipe) or {} for fold, recipe in recipes.items()}
        checkpoints = {fold: str(result["artefacts"]["best_checkpoint"]) for fold, result in results.items()}
        samples = {kind: [fold.samples[kind] for fold in folds] for kind in ("real", "synthetic")}
        origins = [_origin(fold, tiles, trained_on) for fold in folds] if datasets else []
        opened.result.artefacts |= {
            "checkpoints": {str(fold): uri for fold, uri in checkpoints.items()},
            "samples": {kind: sum(numbers) / len(numbers) for kind, numbers in samples.items()},
            "origins": origins,
            "stopped_early": sum(bool(result["artefacts"]["stopped_early"]) for result in results.values()),
            "images": sum(int(result["artefacts"]["images"]) for result in results.values()),
        }
        resources = [result["resources"] for result in results.values()]
        opened.result.resources = {
            "seconds": sum(one["seconds"] for one in resources),
            **{peak: max(one[peak] for one in resources) for peak in ("peak_rss_bytes", "peak_gpu_bytes")},
        }
        opened.keep(epoch_files(tiles, recipes, results), ARTEFACTS)
        notes = [*origin_notes(origins), *few, *too_small(folds, opened.recipe)]
        report_folds(opened, tiles, checkpoints, _in_words(samples), notes)

    def _recipes(
        self, opened: OpenRun, tiles: TileSet, datasets: Sequence[TileSet], folds: Sequence[Fold]
    ) -> dict[int, Recipe]:
        """Mix the tiles of every fold, in the run's folder; the folds' recipes by number."""
        at_once = self._at_once(opened, len(folds))
        recipes = {}
        for fold in folds:
            folder = join(opened.run.folder, "tiles", f"fold-{fold.number}")
            mixture = write_mixture(
                folder, tiles, fold.train, fold.val, datasets, fold.synthetic, opened.recipe.storage.options
            )
            own = fold_recipe(opened.recipe, fold, mixture)
            recipes[fold.number] = child_recipe(opened, f"fold-{fold.number}", own, at_once)
        return recipes

    @staticmethod
    def _at_once(opened: OpenRun, folds: int) -> int:
        return min(folds, trainings_at_once(opened.plan, opened.recipe.scaling))

    def _train(self, opened: OpenRun, recipes: dict[int, Recipe]) -> None:
        """Train the folds that have not finished, as many at once as have room."""
        opened.result.artefacts["folds"] = {str(fold): folder_of(recipe) for fold, recipe in recipes.items()}
        todo = {str(fold): recipe for fold, recipe in recipes.items() if not is_finished(JOB, recipe)}
        if len(todo) < len(recipes):
            say(f"folds: {len(recipes) - len(todo)} of {len(recipes)} are finished already")
        at_once = self._at_once(opened, len(recipes))
        if todo:
            say(f"folds: {len(todo)} to train, {min(len(todo), at_once)} at once")
        with opened.result.phase("folds"):
            jobs = {fold: child_job(self.script, f"fold {fold}", recipe) for fold, recipe in todo.items()}
            failed = run_jobs(jobs, at_once, here=opened.recipe.scaling.in_process)
        if failed:
            reasons = "; ".join(f"fold {fold} ({reason})" for fold, reason in failed.items())
            raise TrainingStopped(f"{len(failed)} of {len(recipes)} folds failed: {reasons}")


def _check_starts(recipe: Recipe, tiles: TileSet, folds: Sequence[Fold]) -> None:
    """UserError where what a fold starts from is no such segmentor, or has seen the test tiles."""
    store = tracking_uri(recipe.tracking, recipe.storage)
    for fold in folds:
        if (start := find_fold_start(recipe, fold.number, tiles)) is not None:
            check_start("training.start_from", tiles, start, store)


def too_small(folds: Sequence[Fold], recipe: Recipe) -> list[str]:
    """What `segmentation.least_lesion` keeps from being trained on, a line where that is anything."""
    least, out = recipe.segmentation.least_lesion, [fold.small for fold in folds]
    if not any(out):
        return []
    each = ", ".join(f"{fold.small} (fold {fold.number})" for fold in folds)
    return [f"Tiles not trained on, with fewer than {least} labelled pixels (segmentation.least_lesion): {each}."]


def _origin(fold: Fold, tiles: TileSet, trained_on: Sequence[Tissue]) -> dict[str, int]:
    """What a fold's validation tiles have to do with its synthetic ones; see `origin_notes`."""
    seen = seen_by_generators(fold, tiles, trained_on)
    return {"fold": fold.number, "left_out": fold.left_out, "validation": len(fold.val), "seen_by_generator": seen}


def _in_words(samples: dict[str, list[int]]) -> str:
    """E.g. "219-221 real and 500 synthetic tiles"."""
    parts = []
    for kind, numbers in samples.items():
        low, high = min(numbers), max(numbers)
        if high:
            parts.append(f"{low} {kind}" if low == high else f"{low}-{high} {kind}")
    return " and ".join(parts) + " tiles"
