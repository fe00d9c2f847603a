"""What all workers of a training hear of rank 0 at the same step: whether to stop, and what time it is."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from metgan_dist.storage import is_local
from metgan_dist.training.assignment import Assignment

PAUSE_SECONDS = 2.0  # between two looks into object storage; a look at a disk costs microseconds
# Several ranks meet for the answer, which waits for the step at hand: every so many seconds or steps, whatever is less.
ROUND_SECONDS, ROUND_STEPS = 1.0, 10


class StopNotice:
    """Whether somebody asked the training to stop: rank 0 alone looks; every rank has to ask after each step.

    Several ranks meet for it every few steps only: rank 0, whose clock alone counts, says each time in how many.
    """

    def __init__(self, assignment: Assignment, rank: int, world: int, device: torch.device) -> None:
        self._assignment, self._rank, self._world, self._device = assignment, rank, world, device
        self._pause = 0.0 if is_local(assignment.folder) else PAUSE_SECONDS
        self._next = 0.0
        self._steps = self._until = 1
        self._met = time.monotonic()
        self._heard = 0.0

    def __call__(self) -> bool:
        if self._world == 1:
            return self._look()
        self._until -= 1
        return self._until == 0 and self._meet()

    def seconds(self) -> float:
        """Rank 0's clock on all ranks, as it was when they last met; a rank that is alone has its own."""
        return time.monotonic() if self._world == 1 else self._heard

    def _meet(self) -> bool:
        answer = [float(self._rank == 0 and self._look()), float(self._pace()), time.monotonic()]
        heard = torch.tensor(answer, dtype=torch.float64, device=self._device)
        dist.broadcast(heard, 0)
        asked, steps, self._heard = heard.tolist()
        self._steps = int(steps)
        self._until, self._met = self._steps, time.monotonic()
        return bool(asked)

    def _pace(self) -> int:
        """Steps until the next round, at the speed of those since the last one."""
        seconds = max(time.monotonic() - self._met, 1e-9)
        return max(1, min(ROUND_STEPS, int(self._steps * ROUND_SECONDS / seconds)))

    def _look(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._pause
        return self._assignment.asked_to_stop()
