"""A whole experiment from a recipe: tiles, segmentor, judge, method, scores, all under one MLflow run."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ray
import torch

from metgan_dist import tracking
from metgan_dist.children import termination_as_interrupt
from metgan_dist.cluster.joining import cluster, is_local, plan_for_cluster, wait_for_room
from metgan_dist.cluster.resources import ResourcePlan, plan_resources
from metgan_dist.code_version import code_version
from metgan_dist.command_line import Command
from metgan_dist.errors import UserError, understood
from metgan_dist.job import Result, say
from metgan_dist.methods import check_tile_size, method_class
from metgan_dist.recipe import Data, Recipe, Tiles, tile_edges
from metgan_dist.run import Run, open_run, record
from metgan_dist.storage import exists, filesystem, join, write_whole
from metgan_dist.tiles.pipeline import make_tiles
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.training.assignment import Assignment
from metgan_dist.training.checkpoint import check_segmentor, load_method, segmentor_recipe
from metgan_dist.training.launch import Trained, train_on_ray
from metgan_dist.training.validation import evaluate_splits, grid, picture_rows
from metgan_dist.volumes.dataset import resolve_data, volume_refs
from metgan_dist.volumes.phantoms import write_phantom
from metgan_dist.weights import weights_path

VERDICTS: dict[str, Literal["FINISHED", "FAILED", "KILLED"]] = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "stopped": "KILLED",
}


@dataclass
class Experiment:
    """An open run with everything its stages need."""

    recipe: Recipe
    run: Run
    plan: ResourcePlan
    tracking_uri: str
    result: Result

    @property
    def spool(self) -> Path:
        """Where records wait for an absent MLflow server: beside the run, or on this machine for object storage."""
        if "://" not in self.run.folder:
            return Path(self.run.folder) / "spool"
        return Path(tempfile.gettempdir()) / f"metgan-spool-{self.run.mlflow_run_id}"

    @contextmanager
    def log(self) -> Iterator[tracking.RunLogger]:
        """MLflow for the driver's own records."""
        assert self.run.mlflow_run_id is not None
        logger = tracking.RunLogger(
            self.tracking_uri, self.run.mlflow_run_id, self.spool, self.recipe.tracking.patience, report=say
        )
        try:
            yield logger
        finally:
            logger.close()


def run_experiment(
    command: Command,
    job: str,
    work: Callable[[Experiment], object],
    tags: Mapping[str, str] | None = None,
) -> str:
    """Check everything that can be checked, join a cluster, open the run, do `work`, and write `result.json`.

    `tags` go to the MLflow run beside the usual ones.

    Returns the URI of the result, or "" for a dry run. Mistakes stop it before any cluster work; whatever fails later
    marks the MLflow run as failed (as killed, where someone stopped it), with the reason, and leaves a result that says
    so.
    """
    recipe = resolved(command.recipe)
    _check_given(command, recipe)
    command = replace(command, recipe=recipe)
    if command.dry_run:
        return _dry_run(recipe)
    uri = tracking.tracking_uri(recipe.tracking, recipe.storage)
    tracking.check_server(uri)
    with cluster(recipe.scaling):
        plan = plan_for_cluster(recipe.scaling, say)
        _check_tracking(uri)
        say(f"plan: {plan}")
        wait_for_room(plan, recipe.scaling, say)
        experiment = _open(command, job, plan, uri, tags or {})
        say(f"run: {experiment.run.name} in {experiment.run.folder}")
        with termination_as_interrupt():  # `ray job stop` sends SIGTERM, and kills seconds later
            try:
                work(experiment)
            except BaseException as error:
                stopped = isinstance(error, KeyboardInterrupt)
                reason = "stopped by a signal" if stopped else " ".join(str(understood(error)).split())
                try:
                    _close(experiment, command, "stopped" if stopped else "failed", reason or type(error).__name__)
                except Exception as another:  # the first error is the one to see
                    say(f"the failure could not be recorded: {another}")
                raise
        return _close(experiment, command, "finished", None)


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with what the data set says of itself filled in, after the checks that need no cluster."""
    method = method_class(recipe.method.name)
    if method.needs_perceptual(recipe):
        weights_path("vgg19")
    if recipe.data.path is None:
        return recipe
    if is_tile_set(recipe):
        manifest = TileSet.open(recipe.data.path, recipe.storage.options).manifest
        data = Data(path=recipe.data.path, **manifest["data"])
        return recipe.model_copy(update={"data": data, "tiles": Tiles(**manifest["tiles"])})
    data = resolve_data(recipe.data, recipe.storage.options)
    volume_refs(data, recipe.storage.options)
    return recipe.model_copy(update={"data": data})


def _check_given(command: Command, recipe: Recipe) -> None:
    """UserError for a flag that says of finished tiles what they are not, rather than ignoring it."""
    if not is_tile_set(recipe):
        return
    asked, have = (_flat(one.model_dump(mode="json", include={"data", "tiles"})) for one in (command.recipe, recipe))
    for field in _flat({name: command.given[name] for name in ("data", "tiles") if name in command.given}):
        if field != "data.path" and asked.get(field) != have.get(field):
            raise UserError(
                f"{field}: {asked.get(field)!r} does not fit the tiles in {recipe.data.path}, which were cut with "
                f"{have.get(field)!r}; leave it out, or cut the tiles again"
            )


def _dry_run(recipe: Recipe) -> str:
    print(recipe.to_yaml())
    if is_local(recipe.scaling):
        plan = plan_resources(recipe.scaling, os.cpu_count() or 1, torch.cuda.device_count())
    else:
        with cluster(recipe.scaling):
            plan = plan_for_cluster(recipe.scaling, say)
    say(f"plan: {plan}")
    return ""


def _check_tracking(uri: str) -> None:
    """Workers on other machines cannot write to a database file of this one."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    if uri.startswith("sqlite") and len({node["NodeManagerAddress"] for node in alive}) > 1:
        raise UserError(
            "tracking.uri: a cluster of several machines needs an MLflow server that all of them reach; "
            "start one with `mlflow server` and give its http:// address"
        )


def _open(command: Command, job: str, plan: ResourcePlan, uri: str, more: Mapping[str, str]) -> Experiment:
    recipe = command.recipe
    run = open_run(job, recipe, command.recipe_name)
    tags = {**more, "job": job, "recipe": command.recipe_name, "code": code_version(), "folder": run.folder}
    if recipe.tracking.parent:
        tags["mlflow.parentRunId"] = recipe.tracking.parent
    if run.mlflow_run_id is None:
        run_id = tracking.start_run(uri, recipe.tracking, run.name, tags)
        run = record(run, recipe, run_id)
    else:
        tracking.resume_run(uri, run.mlflow_run_id)
        say(f"continuing run {run.name}")
    experiment = Experiment(recipe, run, plan, uri, Result(tracking_uri=uri))
    with experiment.log() as log:
        if not run.continued:
            log.params(_flat(recipe.model_dump(mode="json")))
        log.text(recipe.to_yaml(), "recipe.yaml")
        log.text(f"{plan}\n", "plan.txt")
    return experiment


def _close(experiment: Experiment, command: Command, status: str, reason: str | None) -> str:
    run = experiment.run
    location = experiment.result.write(run, command, status, reason)
    assert run.mlflow_run_id is not None
    with experiment.log() as log:
        log.metrics({f"seconds/{name}": value for name, value in experiment.result.timings.items()}, 0)
        log.metrics(_numbers(experiment.result.scores), 0)
        fs, path = filesystem(location, run.options)
        log.text(fs.cat_file(path).decode(), "result.json")
    verdict = VERDICTS[status]
    # Whoever stops a job kills it soon after; what an absent server misses is in the spool.
    patience = min(experiment.recipe.tracking.patience, 1.0 if status == "stopped" else float("inf"))
    tracking.end_run(
        experiment.tracking_uri,
        run.mlflow_run_id,
        verdict,
        reason,
        spool=experiment.spool,
        patience=patience,
        report=say,
    )
    say(f"MLflow: {_how_to_open(experiment.tracking_uri)}")
    return location


def _how_to_open(uri: str) -> str:
    return f"mlflow ui --backend-store-uri {uri}" if uri.startswith("sqlite") else uri


def is_tile_set(recipe: Recipe) -> bool:
    """Whether data.path is a folder that make_tiles wrote."""
    if recipe.data.path is None:
        return False
    return exists(join(recipe.data.path, "manifest.json"), recipe.storage.options)


def prepare_tiles(experiment: Experiment) -> TileSet:
    """The recipe's tiles: an existing set, or cut now from volumes or a phantom; runs on one storage share them."""
    recipe, result = experiment.recipe, experiment.result
    with result.phase("tiles"):
        if is_tile_set(recipe):
            assert recipe.data.path is not None
            tiles = TileSet.open(recipe.data.path, recipe.storage.options)
        else:
            storage = experiment.run.folder.rsplit("/", 1)[0]
            recipe = _with_phantom(recipe, storage)
            sections = recipe.model_dump(mode="json", include={"data", "tiles"})
            name = hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()[:12]
            tiles = make_tiles(recipe, join(storage, "tiles", name), say)
    result.tiles = tiles.manifest["counts"]
    result.artefacts["tiles"] = tiles.uri
    say("tiles: " + ", ".join(f"{result.tiles[split]} {split}" for split in ("train", "val", "test", "unseen")))
    with experiment.log() as log:
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


def pretrain_segmentor(experiment: Experiment) -> None:
    """Tiles, then one segmentor, for itself."""
    trained = train_segmentor(experiment, prepare_tiles(experiment), "segmentor", 0)
    experiment.result.artefacts |= {
        "best_checkpoint": trained.best,
        "last_checkpoint": trained.last,
        "images": trained.images,
        "stopped_early": trained.stopped_early,
    }
    experiment.result.resources = trained.resources


def train_segmentor(experiment: Experiment, tiles: TileSet, role: str, seed_offset: int) -> Trained:
    """Train a segmentor on the real training tiles; `role` is its name in the run."""
    _need(tiles, "tumour", "label")
    check_tile_size(experiment.recipe, tiles.shape)
    say(f"{role}: training a segmentor on {len(tiles.positions('train'))} tiles")
    with experiment.result.phase(role):
        network = "unet" if role == "judge" else None
        assignment = assign(experiment, tiles, role, segmentor_recipe(experiment.recipe, seed_offset, network))
        trained = train_on_ray(assignment, say)
    experiment.result.artefacts[role] = trained.best
    experiment.result.scores[role] = {"dice": trained.score}
    return trained


@dataclass(frozen=True)
class Prepared:
    """What a method is trained with: tiles, the frozen segmentor where it needs one, and the judge that scores it."""

    tiles: TileSet
    segmentor: str | None
    judge: str


def prepare_training(experiment: Experiment, with_segmentor: bool) -> Prepared:
    """Cut the tiles and train the segmentors, where the recipe names none; those that it names are looked at first."""
    recipe = experiment.recipe
    check_tile_size(recipe, tile_edges(recipe))
    wanted = {"segmentor": recipe.method.segmentor, "judge": recipe.method.judge}
    if not with_segmentor:
        del wanted["segmentor"]
    ready = {role: check_segmentor(f"method.{role}", uri, recipe) for role, uri in wanted.items() if uri}
    tiles = prepare_tiles(experiment)
    _need(tiles, "anatomy", "tumour", "label")
    for seed_offset, role in enumerate(("segmentor", "judge")):
        if role in wanted and role not in ready:
            ready[role] = train_segmentor(experiment, tiles, role, seed_offset).best
    return Prepared(tiles, ready.get("segmentor"), ready["judge"])


def train_method(experiment: Experiment) -> None:
    """The work of `train_metgan`: tiles, frozen segmentor, judge, method, and its scores on tiles it never saw."""
    recipe, result = experiment.recipe, experiment.result
    prepared = prepare_training(experiment, method_class(recipe.method.name).needs_segmentor(recipe))
    tiles, segmentor, judge = prepared.tiles, prepared.segmentor, prepared.judge
    with result.phase("training"):
        assignment = replace(assign(experiment, tiles, recipe.method.name, recipe), segmentor=segmentor, judge=judge)
        trained = train_on_ray(assignment, say)
    result.artefacts |= {
        "stopped_early": trained.stopped_early,
        **({} if segmentor is None else {"segmentor": segmentor}),
        "judge": judge,
        "best_checkpoint": trained.best,
        "last_checkpoint": trained.last,
        "images": trained.images,
    }
    result.resources = trained.resources
    name, _ = method_class(recipe.method.name).criterion(recipe)
    result.scores["validation"] = {name: trained.score}
    with result.phase("scores"):
        _score(experiment, tiles, trained.best, judge)


def assign(experiment: Experiment, tiles: TileSet, role: str, recipe: Recipe) -> Assignment:
    """A training of the open run, to be logged there, on all that the run's plan has."""
    assert experiment.run.mlflow_run_id is not None
    return Assignment(
        role=role,
        recipe=recipe,
        tiles=tiles.uri,
        run_folder=experiment.run.folder,
        plan=experiment.plan,
        tracking_uri=experiment.tracking_uri,
        mlflow_run_id=experiment.run.mlflow_run_id,
        spool=str(experiment.spool),
    )


def _score(experiment: Experiment, tiles: TileSet, checkpoint: str, judge: str) -> None:
    """Score the best checkpoint where the workers ran, on the test and unseen tiles."""
    plan, options = experiment.plan, experiment.recipe.storage.options
    task = ray.remote(num_cpus=plan.cpus_per_worker, num_gpus=plan.gpus_per_worker)(_scores_and_grids)
    scores, grids, lines = ray.get(
        task.remote(checkpoint, judge, tiles.uri, options, plan.threads_per_worker * plan.workers)
    )
    for line in lines:
        say(line)
    experiment.result.scores |= scores
    with experiment.log() as log:
        for split, picture in grids.items():
            log.png(picture, f"grids/{split}.png")
            write_whole(join(experiment.run.folder, f"grids/{split}.png"), picture, options)
            experiment.result.artefacts[f"grid_{split}"] = join(experiment.run.folder, f"grids/{split}.png")


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


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, dict) and tree:
        return {key: value for name, part in tree.items() for key, value in _flat(part, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): tree}


def _numbers(scores: dict[str, Any]) -> dict[str, float]:
    flat = {name.replace(".", "/"): value for name, value in _flat(scores).items()}
    return {name: float(value) for name, value in flat.items() if isinstance(value, int | float)}
