"""Whether somebody asked a training to stop, so that all of its workers save and end at the same step."""

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
    """The answer of rank 0, which alone looks, on all ranks; every rank has to ask after each step.

    Several ranks meet for it every few steps only: rank 0, whose clock alone counts, says each time in how many.
    """

    def __init__(self, assignment: Assignment, rank: int, world: int, device: torch.device) -> None:
        self._assignment, self._rank, self._world, self._device = assignment, rank, world, device
        self._pause = 0.0 if is_local(assignment.folder) else PAUSE_SECONDS
        self._next = 0.0
        self._steps = self._until = 1
        self._met = time.monotonic()

    def __call__(self) -> bool:
        if self._world == 1:
            return self._look()
        self._until -= 1
        return self._until == 0 and self._meet()

    def _meet(self) -> bool:
        answer = [int(self._rank == 0 and self._look()), self._pace()]
        heard = torch.tensor(answer, device=self._device)
        dist.broadcast(heard, 0)
        asked, self._steps = heard.tolist()
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
