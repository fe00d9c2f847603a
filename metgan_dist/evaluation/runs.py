"""The runs to compare: found by name, folder or MLflow id, and checked to have been scored on the same test tiles."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from metgan_dist import tracking
from metgan_dist.errors import UserError
from metgan_dist.methods import method_class
from metgan_dist.recipe import Recipe, Scores, stored_recipe
from metgan_dist.recipe.mistakes import first_mistake
from metgan_dist.storage import absolute, exists, join
from metgan_dist.tasks import Task, task_of
from metgan_dist.tiles.independence import independent_units
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.trained import read_result

JOB = "train_metgan"
# Where a tile lies is not what it is, and its place among the training tiles is no matter of the test.
_NOT_CONTENT = ["shard", "position", "split", "fold", "label_row", "domain"]


@dataclass(frozen=True)
class TrainedRun:
    """A finished run of train_metgan, as its `result.json` tells it; `label` is what tables call it."""

    name: str
    label: str
    folder: str
    recipe: Recipe
    result: dict[str, Any]

    @property
    def method(self) -> str:
        """`method.name` of its recipe."""
        return self.recipe.method.name

    @property
    def checkpoint(self) -> str:
        """URI of its best checkpoint."""
        return str(self.result["artefacts"]["best_checkpoint"])

    def judge(self, role: str = "judge") -> str | None:
        """URI of the checkpoint of its judge of tumour images, or of the source; None where it had none to learn by."""
        return self.result["artefacts"].get(role)

    @property
    def tiles(self) -> str:
        """URI of the tile set that it was trained on."""
        return str(self.result["artefacts"]["tiles"])


def find_runs(references: Sequence[str], recipe: Recipe) -> list[TrainedRun]:
    """The runs that `references` name, each a name under storage.path, a folder or URI, or an MLflow run id.

    A run's label is its method, or its name where two runs have the same method. Raises UserError for a reference that
    is unknown or given twice, and for runs that have not finished or are no trainings.
    """
    if not references:
        raise UserError("--runs: none given; name the runs to compare, e.g. --runs NAME,NAME")
    runs = [read_run(_folder_of(reference, recipe), recipe, reference) for reference in references]
    folders = [run.folder for run in runs]
    for run in runs:
        if folders.count(run.folder) > 1:
            raise UserError(f"--runs: {run.name} is given twice")
    methods = [run.method for run in runs]
    return [replace(run, label=run.method if methods.count(run.method) == 1 else run.name) for run in runs]


def read_run(folder: str, recipe: Recipe, reference: str | None = None, label: str = "") -> TrainedRun:
    """The finished run in `folder`; UserError, naming `reference`, where there is none."""
    options, shown = recipe.storage.options, reference or folder
    result = read_result(folder, options)
    if result is None:
        if exists(join(folder, "run.json"), options):
            raise UserError(f"--runs {shown}: has not finished yet; start it again under its name to continue it")
        raise UserError(f"--runs {shown}: no such run in {recipe.storage.path}, nor a run's folder or MLflow run id")
    if result.get("job") != JOB:
        raise UserError(f"--runs {shown}: a run of {result.get('job')}, not of {JOB}: it made no generator to score")
    if result.get("status") != "finished":
        raise UserError(f"--runs {shown}: {result.get('status')} ({result.get('reason')}); start it again")
    try:
        own = stored_recipe(result["recipe"])
    except ValidationError as error:
        reason = first_mistake(error, "no such field")
        raise UserError(f"--runs {shown}: its recipe is of another version and cannot be read: {reason}") from error
    return TrainedRun(result["run"], label or own.method.name, folder, own, result)


def _folder_of(reference: str, recipe: Recipe) -> str:
    options = recipe.storage.options
    if "/" in reference or reference in (".", ".."):
        return absolute(reference)
    named = join(absolute(recipe.storage.path), reference)
    if exists(join(named, "run.json"), options) or not re.fullmatch(r"[0-9a-f]{32}", reference):
        return named
    uri = tracking.tracking_uri(recipe.tracking, recipe.storage)
    tracking.check_server(uri)
    tags = tracking.run_tags(uri, reference)
    if "folder" not in tags:
        raise UserError(f"--runs {reference}: that MLflow run does not say where its folder is; give the folder itself")
    return tags["folder"]


def shared_test_tiles(runs: Sequence[TrainedRun], recipe: Recipe) -> tuple[Task, np.ndarray]:
    """The task of the runs on the first one's tiles, and its test rows, after checking that all have the same ones.

    Training tiles and their labels may differ. Raises UserError naming the first run that does not fit: other channels
    or classes than the tiles', other test tiles, methods that are scored otherwise; or when there are fewer than two
    test tiles (volumes, where the scores are grouped so).
    """
    options = recipe.storage.options
    first = runs[0]
    tiles = TileSet.open(first.tiles, options)
    for run in runs:
        _check_channels(run, tiles)
    identity = digest_of_test(tiles)
    for run in runs[1:]:
        if run.tiles != first.tiles and digest_of_test(TileSet.open(run.tiles, options)) != identity:
            raise UserError(
                f"--runs: {first.name} and {run.name} were scored on different test tiles "
                f"({first.tiles}, {run.tiles}); only runs with the same test split can be compared"
            )
    task = _shared_task(runs, tiles)
    check_enough(tiles, recipe.scores, task.rows("test"))
    return task, task.rows("test")


def _shared_task(runs: Sequence[TrainedRun], tiles: TileSet) -> Task:
    """The task of the first run, whose scores those of all others must be."""
    tasks = [task_of(method_class(run.method), tiles) for run in runs]
    for run, task in zip(runs, tasks, strict=True):
        if task.columns != tasks[0].columns:
            raise UserError(
                f"--runs: {runs[0].name} is scored by {_listed(tasks[0])}, {run.name} ({run.method}) by "
                f"{_listed(task)}; only methods of one task can be compared"
            )
    return tasks[0]


def _listed(task: Task) -> str:
    return ", ".join(column.name for column in task.columns)


def check_enough(tiles: TileSet, settings: Scores, rows: np.ndarray | None = None) -> None:
    """UserError when there are fewer than two test tiles (volumes, where the scores are grouped so).

    rows: the test tiles that are scored, where these are not all of them.
    """
    rows = tiles.positions("test") if rows is None else rows
    if len(rows) < 2:
        raise UserError(
            f"{tiles.uri}: {len(rows)} test tile(s), but tests need at least two; make tiles with a larger tiles.test"
        )
    if settings.group == "volume" and (units := independent_units(tiles, rows, "volume")).count < 2:
        raise UserError(f"scores.group: volume: the test tiles come from {units}; tests need two, use block")


def _check_channels(run: TrainedRun, tiles: TileSet) -> None:
    theirs = tiles.manifest["data"]
    for field in ("anatomy", "tumour", "classes"):
        own = getattr(run.recipe.data, field)
        if own != theirs[field]:
            raise UserError(
                f"data.{field}: run {run.name} was made for {own!r}, the tiles {tiles.uri} have {theirs[field]!r}; "
                "runs of different channels or classes cannot be compared"
            )


def digest_of_test(tiles: TileSet) -> str:
    """A digest of the test tiles alone: their pixels' origin, intensity ranges and labels, in order.

    Sets that differ in their training tiles only, for example in shuffled labels, have the same.
    """
    index, manifest = tiles.index, tiles.manifest
    rows = index.iloc[tiles.positions("test")]
    content = [name for name in index.columns if name not in _NOT_CONTENT]
    volumes = set(rows["volume"])
    origin = {
        "shape": manifest["tile_shape"],
        "normalisation": manifest["normalisation"],
        "data": {name: manifest["data"][name] for name in ("anatomy", "tumour", "label", "classes")},
        "volumes": [volume for volume in manifest["volumes"] if volume["id"] in volumes],
    }
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode())
    for part in (rows[content], index.iloc[rows["label_row"]][content]):
        digest.update(part.to_csv(index=False).encode())
    return digest.hexdigest()
