"""Ray Train: the same loop on any number of CPU or GPU workers, restarted from its checkpoint when one is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pyarrow.fs
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback

from metgan_dist.cluster.progress import printed_queue
from metgan_dist.errors import TrainingStopped
from metgan_dist.methods import method_class
from metgan_dist.recipe import Recipe
from metgan_dist.storage import filesystem, join, write_whole
from metgan_dist.training.assignment import Assignment
from metgan_dist.training.entry import enter
from metgan_dist.training.process_group import ReachableTorchConfig

RESIZE_SECONDS = 300.0  # a larger group starts again from the last checkpoint: not at every machine that comes

RESOURCES = ("seconds", "images_per_second", "peak_rss_bytes", "peak_gpu_bytes")


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
    assignment.forget()
    own = printed_queue(report) if assignment.queue is None else nullcontext(assignment.queue)
    with own as queue:
        result = _trainer(replace(assignment, queue=queue)).fit()
    if (reason := assignment.left()) is not None:
        raise reason
    trained = _trained(assignment, result)
    if assignment.review is None or not assignment.review.ended:
        write_whole(done, json.dumps(trained.__dict__).encode(), assignment.options)
    return trained


class Trainer(TorchTrainer):
    """Ray's trainer without its manager of data sets, a process of seconds of imports that would have none to manage.

    Workers read their tiles by themselves (tiles/stream.py). Private: DatasetsCallback, which starts that process, and
    `_create_default_callbacks`, which makes it; Ray has no setting that leaves it out.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, DatasetsCallback)]


def _trainer(assignment: Assignment) -> Trainer:
    plan, recipe = assignment.plan, assignment.recipe
    keep = CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="score", checkpoint_score_order=_order(recipe))
    return Trainer(
        enter,
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
