"""Where a run is: what checkpoints keep of it beside the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from metgan_dist.methods import Stage
from metgan_dist.training.schedule import Falling


@dataclass
class RunState:
    """Counts and scores of a run; all of it goes into checkpoints.

    `worse` counts the validations since the best one; `total` is the images that the run was planned with. `stage` is
    the one at hand, `falling` the loss that may end it, `ended` the images at which those before it did. `tested`: what
    was noted of the test tiles on the way (see `onlooker.Onlooker`), each time with the `images` at which it was.
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
    stage: str = ""
    ended: dict[str, int] = field(default_factory=dict)
    falling: Falling = field(default_factory=Falling)
    tested: list[dict[str, Any]] = field(default_factory=list)

    @property
    def began(self) -> int:
        """The image at which the stage began."""
        return max(self.ended.values(), default=0)

    def kept(self) -> dict[str, Any]:
        """As a checkpoint has it."""
        return {**self.__dict__, "falling": self.falling.state(), "stage_images": self.images - self.began}

    @staticmethod
    def of(kept: dict[str, Any], first: Stage) -> RunState:
        """From a checkpoint; earlier versions knew no stages: theirs are in the first."""
        state = RunState(**{name: kept[name] for name in RunState.__dataclass_fields__ if name in kept})
        state.falling = Falling(**kept.get("falling", {}))
        state.stage = kept.get("stage", first.name)
        state.checkpoint = checkpoint_name(state.images)
        return state


def checkpoint_name(images: int) -> str:
    """The folder of the checkpoint at so many images."""
    return f"images-{images:09d}"
