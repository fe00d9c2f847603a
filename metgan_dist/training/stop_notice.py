"""Whether somebody asked a training to stop, so that all of its workers save and end at the same step."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from metgan_dist.storage import is_local
from metgan_dist.training.assignment import Assignment

PAUSE_SECONDS = 2.0  # between two looks into object storage; a look at a disk costs microseconds


class StopNotice:
    """The answer of rank 0, which alone looks, on all ranks; every rank has to ask after each step."""

    def __init__(self, assignment: Assignment, rank: int, world: int, device: torch.device) -> None:
        self._assignment, self._rank, self._world, self._device = assignment, rank, world, device
        self._pause = 0.0 if is_local(assignment.folder) else PAUSE_SECONDS
        self._next = 0.0

    def __call__(self) -> bool:
        asked = self._rank == 0 and self._look()
        if self._world == 1:
            return asked
        answer = torch.tensor([int(asked)], device=self._device)
        dist.broadcast(answer, 0)
        return bool(answer.item())

    def _look(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._pause
        return self._assignment.asked_to_stop()
