"""The training loop of one worker: step, log, validate, save, in images.

Progress is counted in images seen by all workers together, so that runs on one worker and on eight are comparable and
a run can be continued on another number of them. The loop knows neither Ray nor the method: what it needs of the world
is in `Surroundings`.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metgan_dist.cluster.progress import Progress
from metgan_dist.errors import TrainingStopped, UserError
from metgan_dist.recipe import Recipe, Training
from metgan_dist.training.checkpoint import restore, save_rank, save_state
from metgan_dist.training.choice import Choice
from metgan_dist.training.logs import Log
from metgan_dist.training.step import Batch, Stepper

STEPS_PER_NOTICE = 10  # asking is a round between all workers; a machine goes minutes after it is announced


@dataclass(frozen=True)
class Length:
    """How long a run is: `step` images make an optimiser step of all workers, `total` images the run."""

    step: int
    total: int

    @staticmethod
    def of(training: Training, tiles: int, workers: int, planned: int | None = None) -> Length:
        """From the recipe: `epochs` passes over `tiles` tiles in whole steps, at least one, at most `max_steps`.

        The steps that are counted are those of `planned` workers: a run that has lost some sees the same images.
        """
        per_worker = training.batch_size * training.accumulate
        per_step = (planned or workers) * per_worker
        steps = max(1, training.epochs * tiles // per_step)
        return Length(workers * per_worker, per_step * min(steps, training.max_steps or steps))

    def crosses(self, images: int, every: int) -> bool:
        """Whether the step that ended at `images` passed a multiple of `every`, or ended the run."""
        return images >= self.total or images // every > (images - self.step) // every


def rate_factor(images: int, total: int, decay_from: float) -> float:
    """Learning-rate factor: 1, then linearly to 0 after the fraction `decay_from` (100 + 100 epochs: 0.5)."""
    done = images / total
    return 1.0 if done <= decay_from else (1 - done) / (1 - decay_from)


@dataclass
class Surroundings:
    """What the loop needs from outside.

    `stream(start, stop)` gives this rank's batches from image `start` to `stop`; `validate(stepper)` scores the
    held-out tiles, together with the other ranks, and gives the scores and a picture; `keep(folder, name, metrics)`
    stores a checkpoint folder, and ends the training by returning False; `resume_from` is the folder of an earlier one.
    `leaving()`, asked every few steps by all ranks alike, says that a machine is about to go: time for a checkpoint.
    `stopping()`, asked after every step by all ranks alike, says that the training is to save and end here.
    """

    rank: int
    stream: Callable[[int, int], Iterator[Batch]]
    validate: Callable[[Stepper], tuple[dict[str, float], bytes | None]]
    keep: Callable[[Path, str, dict[str, float]], bool | None]
    agree: Callable[[str], str]
    say: Callable[[str], None]
    log: Log
    resume_from: Path | None = None
    title: str = "training"
    leaving: Callable[[], bool] = lambda: False
    stopping: Callable[[], bool] = lambda: False


@dataclass
class _State:
    """Where a run is; all of it goes into checkpoints.

    `worse` counts the validations since the best one; `total` is the images that the run was planned with.
    """

    images: int = 0
    steps: int = 0
    best: float | None = None
    best_images: int = 0
    worse: int = 0
    stopped_early: bool = False
    score: float | None = None
    seconds: float = 0.0
    rate: float = 0.0
    total: int = 0
    checkpoint: str = "none yet"
    scores: dict[str, float] = field(default_factory=dict)


def train(recipe: Recipe, stepper: Stepper, length: Length, around: Surroundings) -> dict[str, float]:
    """Run from the last checkpoint (or the start) to the end; returns the last validation scores.

    The end comes early after `training.patience` validations without a better score. Every rank sees the scores of all,
    so they stop together; a checkpoint says that it is the end, so a run that is started again stays ended. A run that
    is asked to stop saves after the step that it is in, and goes on exactly there when it is started again.

    Raises TrainingStopped with the step, the player, the term and the last good checkpoint when a loss is not finite.
    """
    settings, choice = recipe.training, Choice.of(recipe)
    state = _begun(settings, stepper, length, around)
    progress = Progress(around.say, around.title, length.total, done=state.images)
    # As if the earlier starts had just ended, so that seconds add up over all of them.
    began = time.monotonic() - state.seconds
    end = state.images if state.stopped_early else length.total
    for batches in _grouped(around.stream(state.images, end), settings.accumulate):
        # By the images before the step: the first has the full rate, and the last one's is not yet 0.
        stepper.set_rate(rate_factor(state.images, length.total, settings.decay_from))
        losses = _step(stepper, batches, state, around)
        state.images += length.step
        state.steps += 1
        if state.steps % settings.log_every == 0 or state.images >= length.total:
            _log(losses, state, progress, around)
        # Validated before the checkpoint is written, which carries its score.
        fresh = length.crosses(state.images, settings.validate_every)
        if fresh:
            with progress.pause():
                _validate(stepper, state, around, choice)
            state.stopped_early = _ends_early(state, settings, length)
        leaving = state.steps % STEPS_PER_NOTICE == 0 and around.leaving()
        stopping = around.stopping()
        if fresh or leaving or stopping or length.crosses(state.images, settings.checkpoint_every):
            state.seconds, state.rate = time.monotonic() - began, progress.rate(state.images)
            with progress.pause():
                goes_on = _save(recipe, stepper, state, around, fresh, choice)
            if goes_on is False:
                break
        if stopping:
            around.say(f"{around.title}: saved at {state.images} of {length.total} images, to go on from there")
            break
        if state.stopped_early:
            around.say(
                f"{around.title}: stopped early at {state.images} images: {state.worse} validations without a better "
                f"{choice.shown} than {state.best:.4f} at {state.best_images} images"
            )
            break
    return state.scores


def _begun(settings: Training, stepper: Stepper, length: Length, around: Surroundings) -> _State:
    """The state of the checkpoint to go on from, put into `stepper` too, or that of a new run."""
    state = _State()
    if around.resume_from is not None:
        kept = restore(around.resume_from, stepper, around.rank)
        state = _State(**{name: kept[name] for name in _State.__dataclass_fields__ if name in kept})
        state.checkpoint = _checkpoint_name(state.images)
        around.say(f"{around.title}: continuing from {state.images} of {length.total} images")
        if state.total not in (0, length.total):
            factor = rate_factor(state.images, length.total, settings.decay_from)
            around.say(
                f"{around.title}: planned with {state.total} images, now {length.total}, with the learning rate of a "
                f"run of that length: {factor:.2f} of the full one here, and from "
                f"{settings.decay_from * length.total:.0f} images linearly to 0 at the end"
            )
        state.stopped_early = state.stopped_early and _ends_early(state, settings, length)
        if state.stopped_early:
            around.say(f"{around.title}: training.patience ({settings.patience}) had ended it; raise that to go on")
    state.total = length.total
    stepper.images = state.images
    return state


def _ends_early(state: _State, settings: Training, length: Length) -> bool:
    """Whether patience is at an end before the run is; without validation tiles there is nothing to be patient for."""
    if settings.patience is None or state.best is None or state.images >= length.total:
        return False
    return state.worse >= settings.patience


def _grouped(batches: Iterator[Batch], count: int) -> Iterator[Sequence[Batch]]:
    while group := list(itertools.islice(batches, count)):
        yield group


def _step(stepper: Stepper, batches: Sequence[Batch], state: _State, around: Surroundings) -> dict[str, Any]:
    device = stepper.device
    moved = [{name: value.to(device, non_blocking=True) for name, value in batch.items()} for batch in batches]
    try:
        return stepper.step(moved)
    except TrainingStopped as error:
        # Only the ranks that hold the bad tile can name the term; all of them stop together.
        reason = around.agree(str(error))
        raise TrainingStopped(
            f"step {state.steps + 1}: {reason}; the last good checkpoint is {state.checkpoint}"
        ) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        count = len(next(iter(batches[0].values())))
        raise UserError(
            f"training.batch_size: a step of {count} image{'s' * (count > 1)} leaves one value per channel of the "
            "innermost features, too few for batch statistics; use more images, more workers or a larger tiles.size"
        ) from error


def _log(losses: dict[str, Any], state: _State, progress: Progress, around: Surroundings) -> None:
    values = {name: float(value) for name, value in losses.items()}
    around.log.metrics({**values, "images_per_second": progress.rate(state.images)}, state.images)
    terms = ((name.split("/")[-1] if name.startswith("generators") else name, value) for name, value in values.items())
    progress.step(state.images, "  ".join(f"{name} {value:.3f}" for name, value in terms))


def _validate(stepper: Stepper, state: _State, around: Surroundings, choice: Choice) -> None:
    scores, picture = around.validate(stepper)
    state.scores = scores
    state.score = choice.score(scores)
    better = choice.better(state.score, state.best)
    state.worse = 0 if better else state.worse + 1
    if better:
        state.best, state.best_images = state.score, state.images
    if choice.shown not in scores and not choice.last and state.worse == 1:  # the others would say the same
        lack = f"no {choice.shown} on the validation tiles" if scores else "no validation tiles"
        around.say(f"{around.title}: {lack} to choose a checkpoint by: the last one is kept")
    if not scores:
        return
    around.log.metrics({f"validation/{key}": value for key, value in scores.items()}, state.images)
    if picture:
        around.log.png(picture, f"grids/{around.title}-{state.images:08d}.png")
    shown = "  ".join(f"{key} {value:.4f}" for key, value in scores.items() if not key.endswith("_std"))
    around.say(f"{around.title}  validation at {state.images} images: {shown}{'  (best)' if better else ''}")


def _save(
    recipe: Recipe, stepper: Stepper, state: _State, around: Surroundings, fresh: bool, choice: Choice
) -> bool | None:
    """Store a checkpoint; False where the training is to end with it."""
    name = _checkpoint_name(state.images)
    with tempfile.TemporaryDirectory(prefix="metgan-checkpoint-") as temporary:
        folder = Path(temporary)
        if around.rank == 0:
            save_state(folder, stepper, recipe, dict(state.__dict__))
        save_rank(folder, stepper, around.rank)
        # A checkpoint that was not validated is there to continue from, never to be chosen as the best.
        score = state.score if fresh and state.score is not None else choice.worst
        if choice.last:
            score = float(state.images)
        pace = {"seconds": round(state.seconds, 3), "images_per_second": round(state.rate, 3)}
        ended = {"stopped_early": float(state.stopped_early)}
        shown = {f"validation/{key}": value for key, value in state.scores.items()} if fresh else {}
        state.checkpoint = name
        return around.keep(folder, name, {"score": score, "images": state.images, **ended, **pace, **shown})


def _checkpoint_name(images: int) -> str:
    return f"images-{images:09d}"
