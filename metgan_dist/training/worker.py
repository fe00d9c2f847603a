"""What each worker of a training does: the loop, between the tiles, MLflow and the other workers."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from metgan_dist.errors import TrainingStopped, UserError, understood
from metgan_dist.methods import build_method, method_class
from metgan_dist.methods.method import Stage
from metgan_dist.networks.vgg import Vgg19Features
from metgan_dist.storage import join
from metgan_dist.tasks import Drawn, Task, task_of
from metgan_dist.tasks.segmentation import JUDGE_SOURCE, PARTS, Segmentation
from metgan_dist.tiles.brightness import mean_intensities
from metgan_dist.tiles.stream import tile_stream
from metgan_dist.tiles.tile_set import TileSet, chosen_rows, open_part
from metgan_dist.tracking import RunLogger
from metgan_dist.trained import load_method
from metgan_dist.training.assignment import Assignment
from metgan_dist.training.checkpoint import begin_with
from metgan_dist.training.logs import Log, RunLog, Watch
from metgan_dist.training.loop import Surroundings, train
from metgan_dist.training.onlooker import Onlooker
from metgan_dist.training.precision import autocast_dtype
from metgan_dist.training.review import Review
from metgan_dist.training.schedule import Length
from metgan_dist.training.step import Batch, Stepper
from metgan_dist.training.stop_notice import StopNotice
from metgan_dist.training.team import Team
from metgan_dist.training.validation import Validator
from metgan_dist.weights import weights_path

RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # what getrusage counts resident memory in


def work(assignment: Assignment, team: Team, report: Callable[[str], None]) -> None:
    """Train as one worker of `team`, from the last checkpoint where there is one, to the end.

    `report` gets the lines of rank 0. A mistake of the user's fails, so that no rank waits for another, but once: the
    restart finds it and ends well.
    """
    assignment.credentials.adopt()
    if assignment.left() is not None:
        return
    try:
        _work(assignment, team, report if team.rank == 0 else (lambda _line: None))
    except Exception as error:
        cause = understood(error)
        if isinstance(cause, UserError):
            assignment.leave(cause)
        raise


def _work(assignment: Assignment, team: Team, say: Callable[[str], None]) -> None:
    rank, world, device = team.rank, team.world, team.device
    review = assignment.review if rank == 0 else None
    if review:
        review.enter()
    recipe = assignment.recipe
    if device.type == "cpu":
        torch.set_num_threads(assignment.plan.threads_per_worker)
    torch.backends.cudnn.benchmark = True
    tiles = open_part(assignment.tiles, assignment.options, assignment.domain)
    stepper = _stepper(assignment, tiles, device, rank, world)
    torch.manual_seed(recipe.training.seed * 1_000_003 + rank)
    drawn = task_of(stepper.method, tiles).drawn(recipe, assignment.part)
    stages = stepper.method.stages(recipe)
    length = Length.of(recipe.training, drawn.epoch, world, assignment.plan.workers, stages)
    logger = _logger(assignment, say) if rank == 0 else None
    watch = Watch(_log(assignment, logger), stepper.method)
    with _earlier_checkpoint(assignment, team) as folder:
        if folder is None and assignment.weights_from is not None:
            with team.fetched(assignment.weights_from, assignment.options) as other:
                begin_with(other, stepper)
        notice = StopNotice(assignment, rank, world, device)
        around = Surroundings(
            rank=rank,
            stream=_stream(assignment, tiles, drawn, rank, world),
            validate=Validator(_task(assignment, tiles, stepper), device, rank, world, recipe.training.validate_tiles),
            keep=lambda kept, name, metrics: _keep(assignment, team, review, kept, name, {**metrics, **watch.report()}),
            agree=lambda reason: _agree(reason, world),
            say=say,
            log=watch,
            resume_from=folder,
            title=assignment.role,
            test=_onlooker(assignment, tiles, stepper, drawn, rank, world),
            take=lambda stage: _take(assignment, team, stage, stepper),
            mean=lambda value: _mean(value, world),
            leaving=team.leaving(say),
            stopping=notice,
            seconds=notice.seconds,
        )
        try:
            train(recipe, stepper, length, around)
        except TrainingStopped as error:
            # A restart would only stop at the same step again: the worker ends well and the driver reads the reason.
            if rank == 0:
                assignment.leave(error, watch.images)
        finally:
            if logger:
                logger.close()


def _stream(
    assignment: Assignment, tiles: TileSet, drawn: Drawn, rank: int, world: int
) -> Callable[[int, int], Iterator[Batch]]:
    return lambda start, stop: tile_stream(
        tiles,
        assignment.recipe,
        rows=drawn.rows,
        target=drawn.target,
        rank=rank,
        world=world,
        batch_size=assignment.recipe.training.batch_size,
        start=start,
        stop=stop,
        cpus=assignment.plan.data_cpus_per_worker,
        within=assignment.plan.tiles_within,
        here=assignment.recipe.scaling.in_process,
    )


@contextmanager
def _earlier_checkpoint(assignment: Assignment, team: Team) -> Iterator[Path | None]:
    """A local folder with the training's last checkpoint, or the one that it begins from; None where it has neither."""
    uri = team.last_checkpoint() or assignment.start_from
    if uri is None:
        yield None
        return
    with team.fetched(uri, assignment.options) as folder:
        yield folder


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
    prefix = f"{assignment.role}/" if assignment.role in (*PARTS, JUDGE_SOURCE) else ""
    return RunLog(logger, prefix, assignment.run_folder, assignment.options)


def _stepper(assignment: Assignment, tiles: TileSet, device: torch.device, rank: int, world: int) -> Stepper:
    recipe = assignment.recipe
    # What is drawn in training (dropout, latents, noise) differs between ranks; the weights do not.
    torch.manual_seed(recipe.training.seed + rank)
    segmentor = perceptual = None
    if assignment.segmentor:
        segmentor = load_method(assignment.segmentor, assignment.options)[0].networks["segmentor"]
    if "vgg19" in method_class(recipe.method.name).needs(recipe):
        perceptual = Vgg19Features(weights_path("vgg19"))
    method = build_method(recipe, segmentor, perceptual)
    if method.begins_at:
        method.begin_at(mean_intensities(tiles))
    method.seed_pools(recipe.training.seed + rank)
    return Stepper(
        method,
        device,
        world=world,
        joint_batch_norm=recipe.training.batch_norm == "joint",
        bf16_gradients=recipe.training.gradients == "bf16",
        gradient_views=recipe.training.gradient_views,
        autocast=autocast_dtype(recipe.training.precision, device),
        compile_turns=recipe.training.compile,
        ema_half_life=recipe.training.ema_half_life,
    )


def _task(assignment: Assignment, tiles: TileSet, stepper: Stepper) -> Task:
    """What the method is validated by, with the trained judges where it has any."""
    named = {"judge": assignment.judge, JUDGE_SOURCE: assignment.judge_source}
    there = {role: uri for role, uri in named.items() if uri is not None}
    judges = {role: load_method(uri, assignment.options)[0].to(stepper.device) for role, uri in there.items()}
    return task_of(stepper.method, tiles, judges)


def _onlooker(
    assignment: Assignment, tiles: TileSet, stepper: Stepper, drawn: Drawn, rank: int, world: int
) -> Onlooker | None:
    """Who notes how test tiles are met, where that is asked of a training that a run is for."""
    task, settings = task_of(stepper.method, tiles), assignment.recipe
    if settings.segmentation.test_every is None or not assignment.main or task.name != Segmentation.name:
        return None
    samples = {"train": chosen_rows(drawn.rows, settings.training.validate_tiles), "test": task.rows("test")}
    return Onlooker(task, stepper.device, samples, rank, world)


def _keep(
    assignment: Assignment, team: Team, review: Review | None, folder: Path, name: str, metrics: dict[str, float]
) -> bool:
    """Store a checkpoint and report it; whether the training goes on, the same on all ranks."""
    peaks = {
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
    }
    # Whoever reviews the training may begin another from what is reported.
    team.keep(folder, name, {**metrics, **peaks}, wait=assignment.review is not None)
    if assignment.review is None:
        return True
    answer = review is None or review.goes_on({**metrics, "checkpoint": join(assignment.folder, name)})
    if not dist.is_initialized():
        return answer
    answers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(answers, answer)
    return all(answers)


def _take(assignment: Assignment, team: Team, stage: Stage, stepper: Stepper) -> None:
    """Give the networks of the stage at hand the weights of another run's."""
    with team.fetched(assignment.stages_from[stage.name], assignment.options) as other:
        begin_with(other, stepper, {name for player in stepper.playing for name in player.networks})


def _mean(value: Tensor, world: int) -> Tensor:
    if world == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world


def _agree(reason: str, world: int) -> str:
    if world == 1:
        return reason
    reasons: list[Any] = [None] * world
    dist.all_gather_object(reasons, reason)
    named = [text for text in reasons if "the gradient" not in text]
    return (named or reasons)[0]
