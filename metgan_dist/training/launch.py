"""Ray Train: the same loop on any number of CPU or GPU workers, restarted from its checkpoint when one is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow.fs
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback

from metgan_dist.cluster.progress import printed_queue
from metgan_dist.errors import TrainingStopped
from metgan_dist.scores.fidelity import SHARE
from metgan_dist.storage import exists, filesystem, join, read_json, write_whole
from metgan_dist.training.assignment import Assignment
from metgan_dist.training.choice import Choice
from metgan_dist.training.entry import enter
from metgan_dist.training.process_group import ReachableTorchConfig
from metgan_dist.training.stopping import postponed_stop

RESIZE_SECONDS = 300.0  # a larger group starts again from the last checkpoint: not at every machine that comes

RESOURCES = ("seconds", "images_per_second", "utilisation", "peak_rss_bytes", "peak_gpu_bytes")


@dataclass(frozen=True)
class Trained:
    """Where a finished training left its checkpoints, the validation score of the chosen one, and what it took.

    `best` is the checkpoint that `training.keep` chooses, which may be the last; `score` is None where validation gave
    none. `resources`, of the first worker: `seconds` of the training, validations and checkpoints included;
    `images_per_second` of all workers without them, and `utilisation`, the share of time in steps, both since the last
    (re)start; `peak_rss_bytes` and `peak_gpu_bytes`.
    `stopped_early`: `training.patience` ended it before its length did. `last_scores`: what the workers reported with
    the last checkpoint.
    """

    best: str
    last: str
    score: float | None
    images: int
    resources: dict[str, float] = field(default_factory=dict)
    stopped_early: bool = False
    last_scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoints:
    """(URI, metrics) of the checkpoints that a training kept, and of the last one, None where it wrote none."""

    kept: list[tuple[str, dict[str, Any]]]
    last: tuple[str, dict[str, Any]] | None


def run_training(assignment: Assignment, report: Callable[[str], None]) -> Trained:
    """Train, or continue, or return what an earlier start of the run finished: by Ray's workers, or in this process.

    A training that its review ended is not finished: the next start continues it. One that finished is continued where
    the recipe gives it another length now.

    A SIGINT or SIGTERM lets the workers save after the step that they are in, before it has its usual effect here.

    Raises TrainingStopped when a loss was not finite; UserErrors of the workers come out as they are.
    """
    done = join(assignment.folder, "trained.json")
    length = {name: getattr(assignment.recipe.training, name) for name in ("epochs", "max_steps", "patience")}
    if exists(done, assignment.options):
        left = read_json(done, assignment.options)
        if left.pop("length", length) == length or not assignment.main:
            report(f"{assignment.role}: trained already")
            return Trained(**left)
    assignment.forget()
    run = _in_process if assignment.recipe.scaling.in_process else _on_ray
    with postponed_stop(lambda: _ask_to_stop(assignment, report)):
        made = run(assignment, report)
    if (reason := assignment.left()) is not None:
        raise reason
    trained = _trained(assignment, made, report)
    if assignment.review is None or not assignment.review.ended:
        write_whole(done, json.dumps({**trained.__dict__, "length": length}).encode(), assignment.options)
    return trained


def _ask_to_stop(assignment: Assignment, report: Callable[[str], None]) -> None:
    report(f"{assignment.role}: asked to stop; saving (Ctrl-C again: stop without)")
    assignment.ask_to_stop()


def _in_process(assignment: Assignment, report: Callable[[str], None]) -> Checkpoints:
    # Loads the networks, which a driver of Ray's workers need not.
    from metgan_dist.training.in_process import work_here

    made = work_here(assignment, report)
    named = [(join(assignment.folder, one.name), one.metrics) for one in made.kept]
    latest = made.latest
    return Checkpoints(named, None if latest is None else (join(assignment.folder, latest.name), latest.metrics))


def _on_ray(assignment: Assignment, report: Callable[[str], None]) -> Checkpoints:
    own = printed_queue(report) if assignment.queue is None else nullcontext(assignment.queue)
    with own as queue:
        result = _trainer(replace(assignment, queue=queue)).fit()
    # Ray names paths without their scheme.
    scheme = assignment.run_folder.split("://")[0] + "://" if "://" in assignment.run_folder else ""
    kept = [(f"{scheme}{checkpoint.path}", metrics) for checkpoint, metrics in result.best_checkpoints or []]
    if result.checkpoint is None:
        return Checkpoints(kept, None)
    return Checkpoints(kept, (f"{scheme}{result.checkpoint.path}", result.metrics or kept[-1][1]))


class Trainer(TorchTrainer):
    """Ray's trainer without two things of its own that Ray has no setting for.

    No manager of data sets, a process of seconds of imports that would have none to manage: workers read their tiles by
    themselves (tiles/stream.py). And Ctrl-C stays ours: Ray's handler would take the workers away before they can save,
    end this process with SystemExit, and outlive the training. Private: DatasetsCallback, which starts that process,
    `_create_default_callbacks`, which makes it, and `_register_sigint_handler`.
    """

    def _register_sigint_handler(self, controller: Any) -> None:
        pass

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, DatasetsCallback)]


def _trainer(assignment: Assignment) -> Trainer:
    plan, recipe = assignment.plan, assignment.recipe
    order = Choice.of(recipe).ranked
    keep = CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="score", checkpoint_score_order=order)
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


def _trained(assignment: Assignment, made: Checkpoints, report: Callable[[str], None]) -> Trained:
    if made.last is None:
        raise TrainingStopped(f"{assignment.role}: ended without a checkpoint")
    choice = Choice.of(assignment.recipe)
    sign = 1 if choice.ranked == "max" else -1
    last, ending = made.last
    # Among equals the latest: without validation tiles that is all there is to choose by.
    best, metrics = max(made.kept or [made.last], key=lambda pair: (sign * pair[1]["score"], pair[1]["images"]))
    resources = {name: ending[name] for name in RESOURCES if name in ending}
    early = bool(ending.get("stopped_early", False))
    scores = {name: value for name, value in ending.items() if isinstance(value, int | float)}
    score = metrics.get(f"validation/{choice.shown}")
    if choice.floor is not None and metrics.get(f"validation/{SHARE}", 0.0) < choice.floor:
        report(f"{assignment.role}: no checkpoint reaches training.keep_floor ({choice.floor:g}); the last is kept")
    return Trained(best, last, score, int(ending["images"]), resources, early, scores)
