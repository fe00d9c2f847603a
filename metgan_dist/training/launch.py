"""Ray Train: the same loop on any number of CPU or GPU workers, restarted from its checkpoint when one is lost."""

from __future__ import annotations

import json
import logging
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow.fs
import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Queue

from metgan_dist.errors import TrainingStopped
from metgan_dist.methods import build_method, method_class
from metgan_dist.methods.method import Method
from metgan_dist.networks.vgg import Vgg19Features
from metgan_dist.recipe import Recipe
from metgan_dist.tiles.shards import write_whole
from metgan_dist.tiles.stream import tile_stream
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.tracking import Credentials, RunLogger
from metgan_dist.training.checkpoint import load_method
from metgan_dist.training.logs import Log, RunLog, Watch
from metgan_dist.training.loop import Length, Surroundings, train
from metgan_dist.training.preemption import Preemption
from metgan_dist.training.process_group import ReachableTorchConfig
from metgan_dist.training.progress import printed_queue, worker_voice
from metgan_dist.training.resources import ResourcePlan
from metgan_dist.training.review import Review
from metgan_dist.training.step import Batch, Stepper
from metgan_dist.training.validation import Validator, chosen_rows
from metgan_dist.volumes.location import filesystem, join
from metgan_dist.weights import weights_path

SEGMENTORS = ("segmentor", "judge")
RESIZE_SECONDS = 300.0  # a larger group starts again from the last checkpoint: not at every machine that comes

RESOURCES = ("seconds", "images_per_second", "peak_rss_bytes", "peak_gpu_bytes")
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # what getrusage counts resident memory in


@dataclass(frozen=True)
class Assignment:
    """One training of a run, as its workers need it; `role` names it within the run (segmentor, judge, metgan).

    `start_from`: a checkpoint folder to begin from where the training has none of its own. `keep_last`: so many of the
    latest checkpoints are kept; without it, the best and the last. `review` sees each report and may end the training.
    `queue` takes lines for a person; without one, the training opens its own.
    """

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
    start_from: str | None = None
    keep_last: int | None = None
    review: Review | None = None
    credentials: Credentials = field(default_factory=Credentials.of_this_process)
    queue: Queue | None = None

    @property
    def folder(self) -> str:
        """Where the training keeps its checkpoints and how it ended."""
        return join(self.run_folder, "train", self.role)

    @property
    def options(self) -> dict[str, Any]:
        """What the file system of the run's folder needs."""
        return self.recipe.storage.options


@dataclass(frozen=True)
class Trained:
    """Where a finished training left its checkpoints, the validation score of the best, and what it took.

    `resources`, of the first worker: `seconds` of the training, validations and checkpoints included;
    `images_per_second` of all workers without them, since the last (re)start; `peak_rss_bytes` and `peak_gpu_bytes`.
    `stopped_early`: `training.patience` ended it before its length did. `last_scores`: what the workers reported with
    the last checkpoint.
    """

    best: str
    last: str
    score: float
    images: int
    resources: dict[str, float] = field(default_factory=dict)
    stopped_early: bool = False
    last_scores: dict[str, float] = field(default_factory=dict)


def train_on_ray(assignment: Assignment, report: Callable[[str], None]) -> Trained:
    """Train, or continue, or return what an earlier start of the run finished.

    A training that its review ended is not finished: the next start continues it.

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
    own = printed_queue(report) if assignment.queue is None else nullcontext(assignment.queue)
    with own as queue:
        result = _trainer(replace(assignment, queue=queue)).fit()
    if fs.exists(stopped_path):
        raise TrainingStopped(**json.loads(fs.cat_file(stopped_path)))
    trained = _trained(assignment, result)
    if assignment.review is None or not assignment.review.ended:
        write_whole(done, json.dumps(trained.__dict__).encode(), assignment.options)
    return trained


def _trainer(assignment: Assignment) -> TorchTrainer:
    plan, recipe = assignment.plan, assignment.recipe
    keep = CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="score", checkpoint_score_order=_order(recipe))
    return TorchTrainer(
        _worker,
        train_loop_config={"assignment": assignment},
        torch_config=ReachableTorchConfig(backend=plan.backend, timeout_s=600),
        scaling_config=ScalingConfig(
            num_workers=(recipe.scaling.min_workers, plan.workers) if recipe.scaling.min_workers else plan.workers,
            use_gpu=plan.gpus_per_worker > 0,
            resources_per_worker=plan.reserved,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        run_config=RunConfig(
            name=assignment.role,
            failure_config=FailureConfig(max_failures=recipe.training.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=assignment.keep_last) if assignment.keep_last else keep,
            **ray_storage(join(assignment.run_folder, "train"), assignment.options),
        ),
    )


def ray_storage(folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """`storage_path` and, for object storage, `storage_filesystem` as Ray takes them."""
    if "://" not in folder:
        return {"storage_path": folder}
    fs, path = filesystem(folder, options)
    return {"storage_path": path, "storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))}


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
    scores = {name: value for name, value in last.items() if isinstance(value, int | float)}
    return Trained(*where, metrics["score"], int(last["images"]), resources, early, scores)


def _worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    assignment: Assignment = config["assignment"]
    assignment.credentials.adopt()
    logging.getLogger("ray").setLevel(logging.ERROR)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    review = assignment.review if rank == 0 else None
    if review:
        review.enter()
    recipe, device = assignment.recipe, get_device()
    say = worker_voice(assignment.queue if rank == 0 else None) if rank == 0 else (lambda _line: None)
    if device.type == "cpu":
        torch.set_num_threads(assignment.plan.threads_per_worker)
    torch.backends.cudnn.benchmark = True
    stepper = _stepper(assignment, device, rank, world)
    torch.manual_seed(recipe.training.seed * 1_000_003 + rank)
    tiles = TileSet.open(assignment.tiles, assignment.options)
    length = Length.of(recipe.training, len(tiles.positions("train")), world, assignment.plan.workers)
    logger = _logger(assignment, say) if rank == 0 else None
    watch = Watch(_log(assignment, logger), stepper.method)
    with _earlier_checkpoint(assignment) as folder:
        around = Surroundings(
            rank=rank,
            stream=_stream(assignment, tiles, rank, world),
            validate=_validator(assignment, tiles, rank, world, device),
            keep=lambda kept, name, metrics: _keep(assignment, review, kept, name, {**metrics, **watch.report()}),
            agree=lambda reason: _agree(reason, world),
            say=say,
            log=watch,
            resume_from=folder,
            title=assignment.role,
            leaving=Preemption(say),
        )
        try:
            train(recipe, stepper, length, around)
        except TrainingStopped as error:
            # A restart would only stop at the same step again: the worker ends well and the driver reads the reason.
            if rank == 0:
                _leave_reason(assignment, error, watch.images)
        except Exception as error:
            say(f"{assignment.role}: a worker failed ({type(error).__name__}: {error}); it restarts if it may")
            raise
        finally:
            if logger:
                logger.close()


def _leave_reason(assignment: Assignment, error: TrainingStopped, images: int) -> None:
    fs, path = filesystem(join(assignment.folder, "stopped.json"), assignment.options)
    fs.pipe_file(path, json.dumps({"reason": f"{assignment.role}: {error}", "images": images}).encode())


def _stream(assignment: Assignment, tiles: TileSet, rank: int, world: int) -> Callable[[int, int], Iterator[Batch]]:
    return lambda start, stop: tile_stream(
        tiles,
        assignment.recipe,
        split="train",
        rank=rank,
        world=world,
        batch_size=assignment.recipe.training.batch_size,
        start=start,
        stop=stop,
        cpus=assignment.plan.data_cpus_per_worker,
        within=assignment.plan.tiles_within,
    )


@contextmanager
def _earlier_checkpoint(assignment: Assignment) -> Iterator[Path | None]:
    """A local folder with the training's last checkpoint, or the one that it begins from; None where it has neither."""
    kept = ray.train.get_checkpoint()
    if kept is not None:
        with kept.as_directory() as folder:
            yield Path(folder)
    elif assignment.start_from is not None:
        with tempfile.TemporaryDirectory(prefix="metgan-start-") as folder:
            fs, path = filesystem(assignment.start_from, assignment.options)
            fs.get(f"{path}/", f"{folder}/", recursive=True)
            yield Path(folder)
    else:
        yield None


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


def _log(assignment: Assignment, logger: RunLogger | None) -> Log:
    if logger is None:
        return Log()
    prefix = f"{assignment.role}/" if assignment.role in SEGMENTORS else ""
    return RunLog(logger, prefix, assignment.run_folder, assignment.options)


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


def _keep(assignment: Assignment, review: Review | None, folder: Path, name: str, metrics: dict[str, float]) -> bool:
    """Store a checkpoint and report it; whether the training goes on, the same on all ranks."""
    peaks = {
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
    }
    ray.train.report({**metrics, **peaks}, checkpoint=Checkpoint.from_directory(folder), checkpoint_dir_name=name)
    if assignment.review is None:
        return True
    answer = review is None or review.goes_on({**metrics, "checkpoint": join(assignment.folder, name)})
    if not dist.is_initialized():
        return answer
    answers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(answers, answer)
    return all(answers)


def _agree(reason: str, world: int) -> str:
    if world == 1:
        return reason
    reasons: list[Any] = [None] * world
    dist.all_gather_object(reasons, reason)
    named = [text for text in reasons if "the gradient" not in text]
    return (named or reasons)[0]
