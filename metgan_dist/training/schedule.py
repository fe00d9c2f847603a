"""How long a training and each of its stages is, with what learning rate, and when a stage ends before its length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from metgan_dist.errors import UserError
from metgan_dist.methods import Stage, method_class
from metgan_dist.methods.method import WHOLE
from metgan_dist.recipe import Recipe, Training


@dataclass(frozen=True)
class Length:
    """How long a run is: `step` images make an optimiser step of all workers, `total` images the run.

    `stages`: images of each stage, 0 for one that is not trained; empty where there is one alone. `epoch`: images of a
    pass over the training tiles.
    """

    step: int
    total: int
    stages: tuple[int, ...] = ()
    epoch: int = 0

    @staticmethod
    def of(
        training: Training,
        tiles: int,
        workers: int,
        planned: int | None = None,
        stages: Sequence[Stage] = (WHOLE,),
    ) -> Length:
        """From the recipe: passes over `tiles` tiles in whole steps, at least one a stage, at most `max_steps` in all.

        The steps that are counted are those of `planned` workers: a run that has lost some sees the same images.
        """
        per_worker = training.batch_size * training.accumulate
        per_step = (planned or workers) * per_worker
        steps = _shortened([_steps(training, stage, tiles, per_step) for stage in stages], training.max_steps)
        images = tuple(per_step * number for number in steps)
        return Length(workers * per_worker, sum(images), images, tiles)

    def passes(self, images: int, every: int) -> bool:
        """Whether the step that ended at `images` passed a multiple of `every`."""
        return images // every > (images - self.step) // every


def _steps(training: Training, stage: Stage, tiles: int, per_step: int) -> int:
    own = training.epochs if stage.epochs is None else stage.epochs
    epochs = 0 if stage.name in training.stages_from else training.stages.get(stage.name, own)
    return max(1, epochs * tiles // per_step) if epochs else 0


def _shortened(steps: list[int], most: int | None) -> list[int]:
    """`steps` of each stage, where they are more than `most` in proportion, at least one of each that has any."""
    if most is None or sum(steps) <= most:
        return steps
    kept, planned = [], sum(steps)
    for number, own in enumerate(steps):
        after = sum(1 for later in steps[number + 1 :] if later)
        share = max(1, min(round(own * most / planned), most - after)) if own else 0
        kept.append(share)
        most, planned = most - share, planned - own
    return kept


def rate_factor(images: int, total: int, decay_from: float, falls_to: float | None = None) -> float:
    """Learning-rate factor: 1, then linearly to 0 after the fraction `decay_from` (100 + 100 epochs: 0.5).

    With `falls_to` that factor, from the step on that begins there.
    """
    done = images / total
    if falls_to is not None:
        return 1.0 if done < decay_from else falls_to
    return 1.0 if done <= decay_from else (1 - done) / (1 - decay_from)


@dataclass(frozen=True)
class Span:
    """A stage within a run, from image `began` to image `end`; `title` is what progress calls it."""

    stage: Stage
    title: str
    began: int
    end: int
    decay_from: float
    is_last: bool

    def rate(self, images: int) -> float:
        """The factor of the learning rates for the step that begins at `images`."""
        return rate_factor(images - self.began, self.end - self.began, self.decay_from, self.stage.falls_to)

    def falls_from(self) -> float:
        """The image from which the rates fall."""
        return self.began + self.decay_from * (self.end - self.began)

    @property
    def fall(self) -> str:
        """How the rates fall, in words."""
        to = self.stage.falls_to
        return "linearly to 0 at the end" if to is None else f"at once to {to:g} of that"


@dataclass
class Falling:
    """Whether the mean of a loss over an epoch still falls: `worse` epochs have passed since it was lowest."""

    total: float | Tensor = 0.0
    steps: int = 0
    lowest: float | None = None
    worse: int = 0

    def add(self, value: Tensor) -> None:
        """One step's loss; the number stays where it is computed, which costs no wait for a GPU."""
        self.total = value.detach().double() + self.total
        self.steps += 1

    def close(self) -> None:
        """An epoch has passed; one in whose steps the loss did not occur says nothing."""
        if not self.steps:
            return
        mean = float(self.total) / self.steps
        fell = self.lowest is None or mean < self.lowest
        self.lowest, self.worse = (mean, 0) if fell else (self.lowest, self.worse + 1)
        self.total, self.steps = 0.0, 0

    def has_ended(self, stage: Stage) -> bool:
        """Whether the patience of `stage` is at its end."""
        return stage.patience is not None and self.worse >= stage.patience[1]

    def state(self) -> dict[str, Any]:
        """As numbers, for JSON."""
        return asdict(replace(self, total=float(self.total)))


def epochs_count(recipe: Recipe) -> bool:
    """Whether the length of any stage is `training.epochs`, rather than one of its own."""
    training = recipe.training
    own = {*training.stages, *training.stages_from}
    return any(
        stage.epochs is None and stage.name not in own for stage in method_class(recipe.method.name).stages(recipe)
    )


def check_stages(recipe: Recipe) -> None:
    """UserError for fields that name no stage of the method, or leave nothing to train, or too few steps for it."""
    training, method = recipe.training, recipe.method.name
    stages = method_class(method).stages(recipe)
    names = [stage.name for stage in stages]
    known = f"its stages are {', '.join(names)}" if len(names) > 1 else "it trains in one, as long as training.epochs"
    for field in ("stages", "stages_from"):
        for name in getattr(training, field):
            if len(names) < 2 or name not in names:
                raise UserError(f"training.{field}: {method} has no stage {name!r}; {known}")
    trained = sum(1 for stage in stages if _steps(training, stage, 1, 1))
    if not trained:
        raise UserError(f"training.stages: every stage of {method} is left out or taken from another run")
    if training.max_steps is not None and training.max_steps < trained:
        raise UserError(
            f"training.max_steps: {training.max_steps} for {trained} stages of {method}, each of which takes at least "
            "one; raise it, or leave stages out (training.stages)"
        )
