"""Ray Train: the same loop on any number of CPU or GPU workers, restarted from its checkpoint when one is lost."""

from __future__ import annotations

import json
import logging
import resource
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow.fs
import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.queue import Queue

from metgan_dist.errors import TrainingStopped
from metgan_dist.methods import build_method, method_class
from metgan_dist.methods.method import Method
from metgan_dist.networks.vgg import Vgg19Features
from metgan_dist.recipe import Recipe
from metgan_dist.run import Run
from metgan_dist.tiles.shards import write_whole
from metgan_dist.tiles.stream import tile_stream
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.tracking import RunLogger
from metgan_dist.training.checkpoint import load_method
from metgan_dist.training.loop import Length, Log, Surroundings, train
from metgan_dist.training.progress import printed_queue, worker_voice
from metgan_dist.training.resources import ResourcePlan
from metgan_dist.training.step import Stepper
from metgan_dist.training.validation import Validator, chosen_rows
from metgan_dist.volumes.location import filesystem, join
from metgan_dist.weights import weights_path

SEGMENTORS = ("segmentor", "judge")

RESOURCES = ("seconds", "images_per_second", "peak_rss_bytes", "peak_gpu_bytes")
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # what getrusage counts resident memory in


@dataclass(frozen=True)
class Assignment:
    """One training of a run, as its workers need it; `role` names it within the run (segmentor, judge, metgan)."""

    role: str
    recipe: Recipe
    tiles: str
    run_folder: str
    plan: ResourcePlan
    tracking_uri: str
    mlflow_run_id: str
    spool: str
    segmentor: str | None = None
    judge: str | None = None
    queue: Queue | None = None

    @property
    def folder(self) -> str:
        return join(self.run_folder, "train", self.role)

    @property
    def options(self) -> dict[str, Any]:
        return self.recipe.storage.options


@dataclass(frozen=True)
class Trained:
    """Where a finished training left its checkpoints, the validation score of the best, and what it took.

    `resources`, of the first worker: `seconds` of the training, validations and checkpoints included;
    `images_per_second` of all workers without them, since the last (re)start; `peak_rss_bytes` and `peak_gpu_bytes`.
    `stopped_early`: `training.patience` ended it before its length did.
    """

    best: str
    last: str
    score: float
    images: int
    resources: dict[str, float] = field(default_factory=dict)
    stopped_early: bool = False


def train_on_ray(assignment: Assignment, run: Run, report: Callable[[str], None]) -> Trained:
    """Train, or continue, or return what an earlier start of the run finished.

    Raises TrainingStopped when a loss was not finite; UserErrors of the workers come out as they are.
    """
    done = join(assignment.folder, "trained.json")
    fs, path = filesystem(done, assignment.options)
    if fs.exists(path):
        report(f"{assignment.role}: trained already")
        return Trained(**json.loads(fs.cat_file(path)))
    stopped = join(assignment.folder, "stopped.json")
    fs, stopped_path = filesystem(stopped, assignment.options)
    if fs.exists(stopped_path):
        fs.rm_file(stopped_path)
    with printed_queue(report) as queue:
        result = _trainer(replace(assignment, queue=queue)).fit()
    if fs.exists(stopped_path):
        raise TrainingStopped(json.loads(fs.cat_file(stopped_path))["reason"])
    trained = _trained(assignment, result)
    run.write(f"train/{assignment.role}/trained.json", json.dumps(trained.__dict__))
    return trained


def _trainer(assignment: Assignment) -> TorchTrainer:
    plan, recipe = assignment.plan, assignment.recipe
    resources = {"CPU": plan.cpus_per_worker, **({"GPU": plan.gpus_per_worker} if plan.gpus_per_worker else {})}
    order = _order(recipe)
    storage: dict[str, Any] = {"storage_path": join(assignment.run_folder, "train")}
    if "://" in assignment.run_folder:
        fs, path = filesystem(storage["storage_path"], assignment.options)
        storage = {"storage_path": path, "storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))}
    return TorchTrainer(
        _worker,
        train_loop_config={"assignment": assignment},
        torch_config=TorchConfig(backend=plan.backend, timeout_s=600),
        scaling_config=ScalingConfig(
            num_workers=plan.workers, use_gpu=plan.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=assignment.role,
            failure_config=FailureConfig(max_failures=recipe.training.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="score", checkpoint_score_order=order
            ),
            **storage,
        ),
    )


def _order(recipe: Recipe) -> Literal["min", "max"]:
    return method_class(recipe.method.name).criterion(recipe)[1]


def _trained(assignment: Assignment, result: ray.train.Result) -> Trained:
    if result.checkpoint is None:
        raise TrainingStopped(f"{assignment.role}: ended without a checkpoint")
    sign = 1 if _order(assignment.recipe) == "max" else -1
    kept = result.best_checkpoints or [(result.checkpoint, result.metrics)]
    # Among equals the latest: without validation tiles that is all there is to choose by.
    best, metrics = max(kept, key=lambda pair: (sign * pair[1]["score"], pair[1]["images"]))
    scheme = assignment.run_folder.split("://")[0] + "://" if "://" in assignment.run_folder else ""
    last = result.metrics or metrics
    resources = {name: last[name] for name in RESOURCES if name in last}
    where = f"{scheme}{best.path}", f"{scheme}{result.checkpoint.path}"
    early = bool(last.get("stopped_early", False))
    return Trained(*where, metrics["score"], int(last["images"]), resources, early)


class _Silence:
    """The log of every rank but the first."""

    def metrics(self, values: Any, step: int) -> None:
        pass

    def png(self, data: bytes, name: str) -> None:
        pass


class _RoleLog:
    """Rank 0's MLflow log; a run's segmentors put their role before each name, its method has the plain names."""

    def __init__(self, logger: RunLogger, role: str, run_folder: str, options: dict[str, Any]) -> None:
        self._logger, self._prefix = logger, f"{role}/" if role in SEGMENTORS else ""
        self._folder, self._options = run_folder, options

    def metrics(self, values: Any, step: int) -> None:
        self._logger.metrics({f"{self._prefix}{name}": value for name, value in values.items()}, step)

    def png(self, data: bytes, name: str) -> None:
        self._logger.png(data, name)
        write_whole(join(self._folder, name), data, self._options)


def _worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    assignment: Assignment = config["assignment"]
    logging.getLogger("ray").setLevel(logging.ERROR)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    recipe, device = assignment.recipe, get_device()
    say = worker_voice(assignment.queue if rank == 0 else None) if rank == 0 else (lambda _line: None)
    if device.type == "cpu":
        torch.set_num_threads(assignment.plan.threads_per_worker)
    torch.backends.cudnn.benchmark = True
    stepper = _stepper(assignment, device, rank, world)
    torch.manual_seed(recipe.training.seed * 1_000_003 + rank)
    tiles = TileSet.open(assignment.tiles, assignment.options)
    length = Length.of(recipe.training, len(tiles.positions("train")), world)
    validator = _validator(assignment, tiles, rank, world, device)
    logger = _logger(assignment, say) if rank == 0 else None
    log: Log = _RoleLog(logger, assignment.role, assignment.run_folder, assignment.options) if logger else _Silence()
    kept = ray.train.get_checkpoint()
    with kept.as_directory() if kept else nullcontext(None) as folder:
        around = Surroundings(
            rank=rank,
            stream=lambda start, stop: tile_stream(
                tiles,
                recipe,
                split="train",
                rank=rank,
                world=world,
                batch_size=recipe.training.batch_size,
                start=start,
                stop=stop,
                cpus=assignment.plan.data_cpus_per_worker,
            ),
            validate=validator,
            keep=_keep,
            agree=lambda reason: _agree(reason, world),
            say=say,
            log=log,
            resume_from=Path(folder) if folder else None,
            title=assignment.role,
        )
        try:
            train(recipe, stepper, length, around)
        except TrainingStopped as error:
            # A restart would only stop at the same step again: the worker ends well and the driver reads the reason.
            if rank == 0:
                fs, path = filesystem(join(assignment.folder, "stopped.json"), assignment.options)
                fs.pipe_file(path, json.dumps({"reason": f"{assignment.role}: {error}"}).encode())
        except Exception as error:
            say(f"{assignment.role}: a worker failed ({type(error).__name__}: {error}); it restarts if it may")
            raise
        finally:
            if logger:
                logger.close()


def _logger(assignment: Assignment, say: Callable[[str], None]) -> RunLogger:
    patience = assignment.recipe.tracking.patience
    return RunLogger(
        assignment.tracking_uri,
        assignment.mlflow_run_id,
        Path(assignment.spool),
        patience,
        system_metrics=True,
        report=say,
    )


def _stepper(assignment: Assignment, device: torch.device, rank: int, world: int) -> Stepper:
    recipe = assignment.recipe
    # What is drawn in training (dropout, latents, noise) differs between ranks; the weights do not.
    torch.manual_seed(recipe.training.seed + rank)
    segmentor = perceptual = None
    if assignment.segmentor:
        segmentor = load_method(assignment.segmentor, assignment.options)[0].networks["segmentor"]
    if method_class(recipe.method.name).needs_perceptual(recipe):
        perceptual = Vgg19Features(weights_path("vgg19"))
    method = build_method(recipe, segmentor, perceptual)
    method.seed_pools(recipe.training.seed + rank)
    return Stepper(
        method,
        device,
        world=world,
        autocast=_autocast(recipe, device),
        compile_turns=recipe.training.compile,
        ema_half_life=recipe.training.ema_half_life,
    )


def _autocast(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    wanted = recipe.training.precision
    if wanted == "auto":
        wanted = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return torch.bfloat16 if wanted == "bf16" else None


def _validator(assignment: Assignment, tiles: TileSet, rank: int, world: int, device: torch.device) -> Validator:
    judge: Method | None = None
    if assignment.judge:
        judge = load_method(assignment.judge, assignment.options)[0].to(device)
    rows = chosen_rows(tiles.positions("val"), assignment.recipe.training.validate_tiles)
    return Validator(tiles, rows, judge, device, rank, world)


def _keep(folder: Path, name: str, metrics: dict[str, float]) -> None:
    peaks = {
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
    }
    ray.train.report({**metrics, **peaks}, checkpoint=Checkpoint.from_directory(folder), checkpoint_dir_name=name)


def _agree(reason: str, world: int) -> str:
    if world == 1:
        return reason
    reasons: list[Any] = [None] * world
    dist.all_gather_object(reasons, reason)
    named = [text for text in reasons if "the gradient" not in text]
    return (named or reasons)[0]
