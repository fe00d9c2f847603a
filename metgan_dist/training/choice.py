"""Which of its checkpoints a training is known by: the last one, or the best by a validation score.

The error of a cycle says nothing of what lies between: a generator that copies its input has none. So it never chooses
alone: unpaired methods keep the last checkpoint, as their papers do, unless the recipe sets a floor of label fidelity
below which no checkpoint is considered. A method that grows is known by its last checkpoint, which alone is whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from metgan_dist.errors import UserError
from metgan_dist.methods import method_class
from metgan_dist.recipe import Recipe
from metgan_dist.scores.column import COLUMNS
from metgan_dist.scores.fidelity import SHARE

MASKS = "mask_distance"  # of masks that are drawn, which have no other score to be chosen by
NO_SCORE = 1e30  # worse than any score, yet a number: infinity is none in JSON


@dataclass(frozen=True)
class Choice:
    """How checkpoints are compared.

    `shown`: the validation score that is reported. `order`: whether a low or a high one is good. `last`: the last
    checkpoint is kept, whatever it scores. `floor`: least share of the real images' label fidelity, None for any.
    """

    shown: str
    order: Literal["min", "max"]
    last: bool = False
    floor: float | None = None

    @staticmethod
    def of(recipe: Recipe) -> Choice:
        """As `training.keep` says, else the method's own criterion; UserError for what does not fit together."""
        training, method = recipe.training, method_class(recipe.method.name)
        own, order = method.criterion(recipe)
        keep = training.keep or ("last" if own == "cycle_mae" or method.grows else own)
        if method.grows and keep != "last":
            raise UserError(
                f"training.keep: {keep} may choose a checkpoint of an early stage, and only the last one has all that "
                f"{recipe.method.name} makes images with; use last"
            )
        if keep == "last":
            if training.keep_floor is not None:
                raise UserError(
                    "training.keep_floor: the last checkpoint is kept whatever it scores; set training.keep"
                )
            if training.patience is not None:
                raise UserError(
                    "training.patience: with the last checkpoint kept no score says when to stop; choose one in "
                    "training.keep, or leave patience out"
                )
            return Choice(own, order, last=True)
        if MASKS in (keep, own) and keep != own:
            raise UserError(f"training.keep: {keep} is no score of {recipe.method.name}; use last or {own}")
        if own == MASKS and training.keep_floor is not None:
            raise UserError("training.keep_floor: drawn masks have no label fidelity to be judged by; leave it out")
        if keep == "cycle_mae":
            if own != "cycle_mae" and "alpha2" not in method.loss_weights(recipe):
                raise UserError(f"training.keep: {recipe.method.name} has no cycle; use last, mae or label_fidelity")
            if training.keep_floor is None:
                raise UserError(
                    "training.keep: cycle_mae alone would choose a generator that copies its input; set "
                    "training.keep_floor (0.8, say), or use last"
                )
        return Choice(keep, order if keep == own else COLUMNS[keep].better, floor=training.keep_floor)

    def score(self, scores: Mapping[str, float]) -> float | None:
        """What a validation gives a checkpoint to be compared by; None where it is not to be chosen for it."""
        if self.last or (self.floor is not None and scores.get(SHARE, 0.0) < self.floor):
            return None
        return scores.get(self.shown)

    def better(self, score: float | None, best: float | None) -> bool:
        """Whether a score is better than the best so far."""
        if score is None or best is None:
            return score is not None
        return score < best if self.order == "min" else score > best

    @property
    def worst(self) -> float:
        """Worse than any score."""
        return NO_SCORE if self.order == "min" else -NO_SCORE

    @property
    def ranked(self) -> Literal["min", "max"]:
        """Which `score` in the reports of checkpoints is best: with the last one kept it is the images, which grow."""
        return "max" if self.last else self.order
