"""The training loop of one worker: stage by stage step, log, validate, save, in images.

Progress is counted in images seen by all workers together, so that runs on one worker and on eight are comparable and
a run can be continued on another number of them; they count on from stage to stage. The loop knows neither Ray nor the
method: what it needs of the world is in `Surroundings`.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metgan_dist.cluster.progress import Progress
from metgan_dist.errors import TrainingStopped, UserError
from metgan_dist.methods import Stage, enter_stage
from metgan_dist.recipe import Interval, Recipe
from metgan_dist.training.checkpoint import read_progress, restore, save_rank, save_state
from metgan_dist.training.choice import Choice
from metgan_dist.training.due import Due
from metgan_dist.training.logs import Log, Losses, steps_between
from metgan_dist.training.run_state import RunState, checkpoint_name
from metgan_dist.training.schedule import Falling, Length, Span
from metgan_dist.training.step import Batch, Stepper
from metgan_dist.training.utilisation import Utilisation

STEPS_PER_NOTICE = 10  # asking is a round between all workers; a machine goes minutes after it is announced


@dataclass
class Surroundings:
    """What the loop needs from outside.

    `stream(start, stop)` gives this rank's batches from image `start` to `stop`; `validate(stepper)` scores the
    held-out tiles, together with the other ranks, and gives the scores and a picture; `keep(folder, name, metrics)`
    stores a checkpoint folder, and ends the training by returning False; `resume_from` is the folder of an earlier one.
    `test(stepper)` says how the test tiles are met, which is noted and chooses nothing; it is asked as often as
    `segmentation.test_every` says.
    `take(stage)` puts another run's weights into the networks of a stage that is not trained (training.stages_from).
    `mean(value)`, called by all ranks alike, is the mean of a number of each. `leaving()`, asked every few steps by all
    ranks alike, says that a machine is about to go: time for a checkpoint. `stopping()`, asked after every step by all
    ranks alike, says that the training is to save and end here. `seconds()` is a clock that all ranks read alike,
    `clock()` this rank's own.
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
    test: Callable[[Stepper], dict[str, Any]] | None = None
    take: Callable[[Stage], None] = lambda _stage: None
    mean: Callable[[Tensor], Tensor] = lambda value: value
    leaving: Callable[[], bool] = lambda: False
    stopping: Callable[[], bool] = lambda: False
    seconds: Callable[[], float] = time.monotonic
    clock: Callable[[], float] = time.monotonic


def train(recipe: Recipe, stepper: Stepper, length: Length, around: Surroundings) -> dict[str, float]:
    """Run from the last checkpoint (or the start) to the end; returns the last validation scores.

    The end comes early after `training.patience` validations of the last stage without a better score. Every rank sees
    the scores of all, so they stop together; a checkpoint says that it is the end, so a run that is started again stays
    ended. A run that is asked to stop saves after the step that it is in, and goes on exactly there when it is started
    again.

    Raises TrainingStopped with the step, the player, the term and the last good checkpoint when a loss is not finite.
    """
    run = _Run(recipe, stepper, length, around)
    for span in run.spans():
        if not run.train_stage(span):
            break
    return run.state.scores


class _Run:
    """A run of all its stages."""

    def __init__(self, recipe: Recipe, stepper: Stepper, length: Length, around: Surroundings) -> None:
        self.recipe, self.stepper, self.length, self.around = recipe, stepper, length, around
        self.settings, self.choice = recipe.training, Choice.of(recipe)
        self.stages = stepper.method.stages(recipe)
        self.state = self._begun()
        self.losses, self.shown = Losses(), ""
        self.log_every = steps_between(self.settings.log_every, length.total // length.step)
        looks = Interval.of(self.settings.validate_every)
        self.validations = self._due(looks)
        self.checkpoints = self._due(Interval.of(self.settings.checkpoint_every))
        self.tests = self._due(looks.times(recipe.segmentation.test_every or 1))
        # As if the earlier starts had just ended, so that seconds add up over all of them.
        self.started = around.clock() - self.state.seconds
        self.utilisation = Utilisation(around.clock)

    def _begun(self) -> RunState:
        """The state of the checkpoint to go on from, put into the stepper too, or that of a new run."""
        stepper, around = self.stepper, self.around
        state = RunState(stage=self.stages[0].name)
        if around.resume_from is not None:
            state = RunState.of(read_progress(around.resume_from), self.stages[0])
        for stage in self.stages[: self._number(state.stage) + 1]:
            enter_stage(stepper.method, self.recipe, stage)
            stepper.begin(stage)
        if around.resume_from is not None:
            restore(around.resume_from, stepper, around.rank)
        stepper.steps = state.steps
        return state

    def _due(self, interval: Interval) -> Due:
        return Due(interval, self.length, self.around.seconds)

    def _number(self, name: str) -> int:
        return [stage.name for stage in self.stages].index(name)

    def spans(self) -> Iterator[Span]:
        """The stages to train from here on, each when the one before it has ended."""
        state, around = self.state, self.around
        if around.resume_from is not None:
            self._say_where()
        else:
            around.say(f"{around.title}: {self._plan()}")
        state.total = self.length.total
        reached = self._number(state.stage)
        for number, stage in enumerate(self.stages[reached:], reached):
            if number > reached:
                self._go_on_to(stage)
            if stage.name in self.settings.stages_from:
                around.take(stage)
            span = self._span(number)
            if span.end > span.began:
                yield span

    def _go_on_to(self, stage: Stage) -> None:
        state = self.state
        state.ended[state.stage] = state.images
        state.stage, state.falling, state.worse = stage.name, Falling(), 0
        enter_stage(self.stepper.method, self.recipe, stage)
        self.stepper.begin(stage)

    def _span(self, number: int) -> Span:
        stage, began, count = self.stages[number], self.state.began, len(self.stages)
        title, images = self.around.title, (self.length.stages or (self.length.total,))[number]
        if count > 1:
            title = f"{title} {number + 1}/{count} {stage.name}"
        decay = self.settings.decay_from if stage.decay_from is None else stage.decay_from
        return Span(stage, title, began, began + images, decay, number + 1 == count)

    def _plan(self) -> str:
        """The images of a run that begins, in words, stage by stage where there are several."""
        total, epoch, taken = self.length.total, self.length.epoch, self.settings.stages_from
        if len(self.stages) == 1:
            return f"{total} images" + (f", {total / epoch:.3g} times the {epoch} training tiles" if epoch else "")
        parts = []
        for stage, images in zip(self.stages, self.length.stages, strict=True):
            untrained = f"from {taken[stage.name]}" if stage.name in taken else "left out"
            parts.append(f"{stage.name} ({f'{images} images' if images else untrained})")
        return f"{len(self.stages)} stages: {', '.join(parts)}"

    def _say_where(self) -> None:
        """What a run that goes on finds, and whether it has ended before."""
        state, say, number = self.state, self.around.say, self._number(self.state.stage)
        span, later = self._span(number), sum(self.length.stages[number + 1 :])
        say(f"{span.title}: continuing from {state.images} of {span.end} images")
        if state.total not in (0, self.length.total):
            say(
                f"{span.title}: planned with {state.total} images, now {span.end + later}, with the learning rate of a "
                f"run of that length: {span.rate(state.images):.2f} of the full one here, and from "
                f"{span.falls_from():.0f} images {span.fall}"
            )
        if state.falling.has_ended(span.stage):
            say(f"{span.title}: the stage has ended, its loss had not fallen for {state.falling.worse} epochs")
        state.stopped_early = state.stopped_early and self._runs_out_of_patience(span)
        if state.stopped_early:
            say(f"{span.title}: training.patience ({self.settings.patience}) had ended it; raise that to go on")

    def train_stage(self, span: Span) -> bool:
        """Train to the end of a stage; whether the run goes on with the next one."""
        state, around, settings = self.state, self.around, self.settings
        progress = Progress(around.say, span.title, span.end, done=state.images)
        end = state.images if state.stopped_early or self._is_over(span) else span.end
        for batches in _grouped(around.stream(state.images, end), settings.accumulate):
            self._make_step(span, batches, progress)
            is_over = self._is_over(span)
            fresh = is_over or self.validations.is_due(state.images, state.steps)
            if fresh or state.steps % self.log_every == 0:
                self._log(progress)
            progress.step(state.images, self.shown)  # how long it takes is not to be asked of log_every
            # Validated before the checkpoint is written, which carries its score.
            if fresh:
                with progress.pause():
                    self._validate(span)
                state.stopped_early = self._runs_out_of_patience(span)
            leaving = state.steps % STEPS_PER_NOTICE == 0 and around.leaving()
            stopping = around.stopping()
            if fresh or leaving or stopping or self.checkpoints.is_due(state.images, state.steps):
                self._log(progress)
                state.seconds, state.rate = around.clock() - self.started, progress.rate(state.images)
                with progress.pause():
                    goes_on = self._save(fresh)
                self.checkpoints.done()
                if fresh:
                    self.validations.done()
                if goes_on is False:
                    return False
            if stopping:
                around.say(f"{span.title}: saved at {state.images} of {span.end} images, to go on from there")
                return False
            if state.stopped_early:
                around.say(
                    f"{span.title}: stopped early at {state.images} images: {state.worse} validations without a better "
                    f"{self.choice.shown} than {state.best:.4f} at {state.best_images} images"
                )
            if is_over or state.stopped_early:
                break
        return self._is_over(span) and not state.stopped_early

    def _make_step(self, span: Span, batches: Sequence[Batch], progress: Progress) -> None:
        """Make a step; where a loss is not finite, those of the steps that led there are logged first."""
        # By the images before the step: the first has the full rate, and the last one's is not yet 0.
        self.stepper.set_rate(span.rate(self.state.images))
        try:
            with self.utilisation.step():
                losses = _step(self.stepper, batches, self.state, self.around)
        except TrainingStopped:
            self._log(progress)
            raise
        self.losses.add(losses)
        self.state.images += self.length.step
        self.state.steps += 1
        self._follow(span, losses)

    def _log(self, progress: Progress) -> None:
        """Log the mean losses of the interval that ends here, if there is any; progress shows them until the next."""
        means, counts = self.losses.take()
        if not means:
            return
        images = self.state.images
        pace = {"images_per_second": progress.rate(images), "utilisation": self.utilisation.of_interval()}
        self.around.log.metrics({**means, **pace}, images, counts)
        terms = {name.removeprefix("generators/"): value for name, value in means.items()}
        self.shown = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())

    def _is_over(self, span: Span) -> bool:
        """Whether a stage has ended, by its length or by its loss."""
        return self.state.images >= span.end or self.state.falling.has_ended(span.stage)

    def _follow(self, span: Span, losses: dict[str, Tensor]) -> None:
        """Count the epochs in which the loss that may end a stage has not fallen."""
        if span.stage.patience is None:
            return
        state, (term, epochs) = self.state, span.stage.patience
        # One term of a player, or all of them.
        watched = [loss for name, loss in losses.items() if name == term or name.startswith(f"{term}/")]
        if watched:
            state.falling.add(self.around.mean(torch.stack(watched).sum()))
        if self.length.passes(state.images - span.began, self.length.epoch):
            state.falling.close()
        if state.falling.has_ended(span.stage) and state.images < span.end:
            self.around.say(
                f"{span.title}: ends at {state.images} images: for {epochs} epochs {term} has not been below "
                f"{state.falling.lowest:.4f}"
            )

    def _runs_out_of_patience(self, span: Span) -> bool:
        """Whether `training.patience` is at an end before the run is; stages before the last have no say in it.

        Without validation tiles there is nothing to be patient for.
        """
        state, patience = self.state, self.settings.patience
        if patience is None or state.best is None or state.images >= span.end or not span.is_last:
            return False
        return state.worse >= patience

    def _test(self, span: Span) -> None:
        """Note how the test tiles are met, where that is asked for and it is time, or the end."""
        state, around = self.state, self.around
        if around.test is None or self.recipe.segmentation.test_every is None:
            return
        if not (self._is_over(span) or self.tests.is_due(state.images, state.steps)):
            return
        noted = around.test(self.stepper)
        self.tests.done()
        state.tested.append({"images": state.images, **noted})
        numbers = {f"{name}/{key}": one[key] for name, one in noted.items() for key in ("dice", "loss")}
        around.log.metrics(numbers, state.images)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        around.say(f"{span.title}  noted at {state.images} images, to choose nothing by: {shown}")

    def _validate(self, span: Span) -> None:
        self._test(span)
        state, around, choice = self.state, self.around, self.choice
        scores, picture = around.validate(self.stepper)
        state.scores = scores
        state.score = choice.score(scores)
        better = choice.better(state.score, state.best)
        state.worse = 0 if better else state.worse + 1
        if better:
            state.best, state.best_images = state.score, state.images
        if choice.shown not in scores and not choice.last and state.worse == 1:  # the others would say the same
            lack = f"no {choice.shown} on the validation tiles" if scores else "no validation tiles"
            around.say(f"{span.title}: {lack} to choose a checkpoint by: the last one is kept")
        if not scores:
            return
        around.log.metrics({f"validation/{key}": value for key, value in scores.items()}, state.images)
        if picture:
            around.log.png(picture, f"grids/{around.title}-{state.images:08d}.png")
        shown = "  ".join(f"{key} {value:.4f}" for key, value in scores.items() if not key.endswith("_std"))
        around.say(f"{span.title}  validation at {state.images} images: {shown}{'  (best)' if better else ''}")

    def _save(self, fresh: bool) -> bool | None:
        """Store a checkpoint; False where the training is to end with it."""
        state, choice, around = self.state, self.choice, self.around
        name = checkpoint_name(state.images)
        with tempfile.TemporaryDirectory(prefix="metgan-checkpoint-") as temporary:
            folder = Path(temporary)
            if around.rank == 0:
                save_state(folder, self.stepper, self.recipe, state.kept())
            save_rank(folder, self.stepper, around.rank)
            # A checkpoint that was not validated is there to continue from, never to be chosen as the best.
            score = state.score if fresh and state.score is not None else choice.worst
            if choice.last:
                score = float(state.images)
            pace = {"seconds": round(state.seconds, 3), "images_per_second": round(state.rate, 3)}
            pace["utilisation"] = round(self.utilisation.of_all(), 4)
            ended = {"stopped_early": float(state.stopped_early)}
            shown = {f"validation/{key}": value for key, value in state.scores.items()} if fresh else {}
            state.checkpoint = name
            return around.keep(folder, name, {"score": score, "images": state.images, **ended, **pace, **shown})


def _grouped(batches: Iterator[Batch], count: int) -> Iterator[Sequence[Batch]]:
    while group := list(itertools.islice(batches, count)):
        yield group


def _step(stepper: Stepper, batches: Sequence[Batch], state: RunState, around: Surroundings) -> dict[str, Any]:
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
