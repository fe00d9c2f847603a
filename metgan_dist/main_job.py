"""The steps of the main job, in order: tiles, segmentor, judge, the method, and its scores on what it never saw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch

from metgan_dist.errors import UserError
from metgan_dist.methods import check_tile_size, method_class
from metgan_dist.methods.segmentor import judge_recipe, segmentor_recipe
from metgan_dist.recipe import Recipe, identifying
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun, is_tile_set
from metgan_dist.scores.fidelity import unlearned
from metgan_dist.storage import absolute, join
from metgan_dist.tiles.pipeline import make_tiles
from metgan_dist.tiles.splits import segmentor_and_judge
from metgan_dist.tiles.survey import check_volumes
from metgan_dist.tiles.tile_set import SPLITS, TileSet
from metgan_dist.trained import check_segmentor, find_start, load_method, read_result, run_of
from metgan_dist.training.assignment import PARTS, Assignment, Part
from metgan_dist.training.choice import Choice
from metgan_dist.training.launch import Trained, run_training
from metgan_dist.training.organs import never_trained, with_organs
from metgan_dist.training.validation import evaluate_splits, grid, picture_rows
from metgan_dist.volumes.labelled import Role
from metgan_dist.volumes.phantoms import write_phantom


def check_tiles(recipe: Recipe, needed: Sequence[Role] = ()) -> None:
    """UserError for what keeps the recipe's tiles from being cut, or has not the roles `needed`, before any work."""
    if not is_tile_set(recipe):
        check_volumes(recipe, needed)
        return
    assert recipe.data.path is not None
    _need(TileSet.open(recipe.data.path, recipe.storage.options), *needed)


def check_segmentor_training(recipe: Recipe) -> None:
    """UserError for what keeps a segmentor from being trained on the recipe's tiles, before any work."""
    check_tile_size(recipe, recipe.tiles.shape)
    find_start(_as_segmentor(recipe))
    check_tiles(recipe, ("tumour", "label"))


def check_training(recipe: Recipe) -> None:
    """UserError for what keeps the recipe's method, and its segmentors, from being trained, before any work."""
    check_tile_size(recipe, recipe.tiles.shape)
    method_class(recipe.method.name).check(recipe)
    Choice.of(recipe)
    _named_segmentors(recipe, method_class(recipe.method.name).needs_segmentor(recipe))
    find_start(recipe)
    check_tiles(recipe, ("anatomy", "tumour", "label"))


def prepare_tiles(opened: OpenRun) -> TileSet:
    """The recipe's tiles: an existing set, or cut now from volumes or a phantom; runs on one storage share them."""
    recipe, result = opened.recipe, opened.result
    with result.phase("tiles"):
        if is_tile_set(recipe):
            assert recipe.data.path is not None
            tiles = TileSet.open(recipe.data.path, recipe.storage.options)
        else:
            storage = opened.run.folder.rsplit("/", 1)[0]
            recipe = _with_phantom(recipe, storage)
            sections = recipe.model_dump(mode="json", include={"data", "tiles"})
            sections["data"] = identifying(sections["data"])
            name = hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()[:12]
            tiles = make_tiles(recipe, join(storage, "tiles", name), say)
    result.tiles = tiles.manifest["counts"]
    result.artefacts["tiles"] = tiles.uri
    say("tiles: " + ", ".join(f"{result.tiles[split]} {split}" for split in SPLITS))
    with opened.log() as log:
        rows = result.tiles["train"]
        log.dataset(tiles.name, tiles.uri, tiles.digest, "training", rows)
        for part, share in zip(tiles.parts, tiles.manifest.get("parts", []), strict=True):
            use = "training" if share["train"] else "validation"
            log.dataset(part.name, part.uri, part.digest, use, share["train"])
        log.text(json.dumps(tiles.manifest, indent=1), "tiles/manifest.json")
    return tiles


def _with_phantom(recipe: Recipe, storage: str) -> Recipe:
    if recipe.data.path is not None:
        return recipe
    phantom = recipe.data.phantom
    digest = hashlib.sha256(phantom.model_dump_json().encode()).hexdigest()[:8]
    folder = write_phantom(phantom, join(storage, f"phantom-{phantom.modality}-{digest}"), recipe.storage.options)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": folder})})


def _need(tiles: TileSet, *roles: str) -> None:
    missing = [role for role in roles if role not in tiles.manifest["roles"]]
    if missing:
        raise UserError(
            f"data.{missing[0]}: {tiles.uri}: these tiles have no {missing[0]} to train on; name one and cut them again"
        )


def pretrain_segmentor(opened: OpenRun) -> None:
    """Tiles, then one segmentor, for itself."""
    start = opened.start(lambda: find_start(_as_segmentor(opened.recipe)))
    trained = train_segmentor(opened, prepare_tiles(opened), "segmentor", main=True, weights_from=start)
    opened.result.artefacts |= {
        "best_checkpoint": trained.best,
        "last_checkpoint": trained.last,
        "images": trained.images,
        "stopped_early": trained.stopped_early,
    }
    opened.result.resources = trained.resources


def _as_segmentor(recipe: Recipe) -> Recipe:
    """The recipe of a run that is for the segmentor itself, which then starts from what the recipe says."""
    own = segmentor_recipe(recipe)
    start = {"start_from": recipe.training.start_from}
    return own.model_copy(update={"training": own.training.model_copy(update=start)})


def train_segmentor(
    opened: OpenRun,
    tiles: TileSet,
    role: str,
    part: Part | None = None,
    *,
    main: bool = False,
    weights_from: str | None = None,
) -> Trained:
    """Train a segmentor on the real training tiles; `role` is its name in the run, which is for it where `main`.

    Without a `part` it learns from all of them. The frozen segmentor and the judge of a method learn each from a part
    of their own, that label fidelity may not be what one network says of another's work; on places too few to be parted
    both learn from all, which a line says.
    """
    _need(tiles, "tumour", "label")
    check_tile_size(opened.recipe, tiles.shape)
    own = judge_recipe(opened.recipe) if part == "judge" else segmentor_recipe(opened.recipe)
    count = len(tiles.positions("train"))
    if part is not None:
        parts = dict(zip(PARTS, map(len, segmentor_and_judge(tiles.index)), strict=True))
        if all(parts.values()):
            count = parts[part]
        else:
            say(f"{role}: the training tiles lie at too few places to keep segmentor and judge apart; all are used")
            part = None
    say(f"{role}: training a segmentor ({own.method.segmentor_network}) on {count} tiles")
    with opened.result.phase(role):
        assignment = replace(assign(opened, tiles, role, own), part=part, main=main, weights_from=weights_from)
        trained = run_training(assignment, say)
    opened.result.artefacts[role] = trained.best
    if trained.score is not None:
        opened.result.scores[role] = {"dice": trained.score}
        if (advice := unlearned(trained.score)) is not None:
            say(f"{role}: {advice}")
    return trained


@dataclass(frozen=True)
class Prepared:
    """What a method is trained with: tiles, the frozen segmentor where it needs one, and the judge that scores it."""

    tiles: TileSet
    segmentor: str | None
    judge: str


def prepare_training(opened: OpenRun, with_segmentor: bool) -> Prepared:
    """Cut the tiles and train the segmentors, where the recipe names none; those that it names are looked at first."""
    wanted = _named_segmentors(opened.recipe, with_segmentor)
    tiles = prepare_tiles(opened)
    _need(tiles, "anatomy", "tumour", "label")
    if line := never_trained(with_organs(opened.recipe, tiles), tiles):
        say(line)
    for role in PARTS:
        if role in wanted and wanted[role] is None:
            wanted[role] = train_segmentor(opened, tiles, role, role).best
    assert wanted["judge"] is not None
    return Prepared(tiles, wanted.get("segmentor"), wanted["judge"])


def _named_segmentors(recipe: Recipe, with_segmentor: bool) -> dict[str, str | None]:
    """The segmentors that are needed, by role: the recipe's, which must be some, or None for one to be trained."""
    wanted = {"segmentor": recipe.method.segmentor, "judge": recipe.method.judge}
    if not with_segmentor:
        del wanted["segmentor"]
    return {role: check_segmentor(f"method.{role}", uri, recipe) if uri else None for role, uri in wanted.items()}


def train_method(opened: OpenRun) -> None:
    """The work of `train_metgan`: tiles, frozen segmentor, judge, method, and its scores on tiles it never saw."""
    recipe, result = opened.recipe, opened.result
    start = opened.start(lambda: find_start(recipe))
    prepared = prepare_training(opened, method_class(recipe.method.name).needs_segmentor(recipe))
    tiles, segmentor, judge = prepared.tiles, prepared.segmentor, prepared.judge
    if start is not None:
        _compare_tiles(start, tiles)
    with result.phase("training"):
        assignment = assign(opened, tiles, recipe.method.name, recipe)
        trained = run_training(replace(assignment, segmentor=segmentor, judge=judge, weights_from=start), say)
    result.artefacts |= {
        "stopped_early": trained.stopped_early,
        **({} if segmentor is None else {"segmentor": segmentor}),
        "judge": judge,
        "best_checkpoint": trained.best,
        "last_checkpoint": trained.last,
        "images": trained.images,
    }
    result.resources = trained.resources
    if trained.score is not None:
        result.scores["validation"] = {Choice.of(recipe).shown: trained.score}
    with result.phase("scores"):
        _score(opened, tiles, trained.best, judge)


def _compare_tiles(start: str, tiles: TileSet) -> None:
    """Say so where the weights to start from were not trained on these tiles: they may have seen the test tiles."""
    run = run_of(start, tiles.options) or {"folder": start}
    theirs = (read_result(run["folder"], tiles.options) or {}).get("artefacts", {}).get("tiles")
    if theirs is None or absolute(str(theirs)) != absolute(tiles.uri):
        say(
            f"training.start_from: {start} was trained on {theirs or 'tiles that are not known'}; scores on test tiles "
            "count only where it saw none of them"
        )


def assign(opened: OpenRun, tiles: TileSet, role: str, recipe: Recipe) -> Assignment:
    """A training of the open run, to be logged there, on all that the run's plan has."""
    assert opened.run.mlflow_run_id is not None
    return Assignment(
        role=role,
        recipe=with_organs(recipe, tiles),
        tiles=tiles.uri,
        run_folder=opened.run.folder,
        plan=opened.plan,
        tracking_uri=opened.tracking_uri,
        mlflow_run_id=opened.run.mlflow_run_id,
        spool=str(opened.spool),
    )


def _score(opened: OpenRun, tiles: TileSet, checkpoint: str, judge: str) -> None:
    """Score the best checkpoint where the training ran, on the test and unseen tiles."""
    plan, options = opened.plan, opened.recipe.storage.options
    arguments = checkpoint, judge, tiles.uri, options, plan.threads_per_worker * plan.workers
    if opened.recipe.scaling.in_process:
        # Loads what a worker loads, which a driver of Ray's workers need not.
        from metgan_dist.training.in_process import left_as_it_was

        with left_as_it_was():
            scores, grids, lines = _scores_and_grids(*arguments)
    else:
        task = ray.remote(num_cpus=plan.cpus_per_worker, num_gpus=plan.gpus_per_worker)(_scores_and_grids)
        scores, grids, lines = ray.get(task.remote(*arguments))
    for line in lines:
        say(line)
    opened.result.scores |= scores
    names = {split: f"grids/{split}.png" for split in grids}
    opened.keep(
        {names[split]: picture for split, picture in grids.items()},
        {name: f"grid_{split}" for split, name in names.items()},
    )
    for name in names.values():
        say(f"pictures: {join(opened.run.folder, name)}")


def _scores_and_grids(
    checkpoint: str, judge_uri: str, tiles_uri: str, options: dict[str, Any], threads: int
) -> tuple[dict[str, Any], dict[str, bytes], list[str]]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(threads)
    method, judge = (load_method(uri, options)[0].to(device) for uri in (checkpoint, judge_uri))
    tiles = TileSet.open(tiles_uri, options)
    lines: list[str] = []
    scores = evaluate_splits(method, tiles, judge, device, lines.append)
    grids = {split: grid(method, tiles, picture_rows(tiles, tiles.positions(split)), device) for split in scores}
    return scores, grids, lines
