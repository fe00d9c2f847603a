"""The workers that train together, as one of them sees them: Ray Train's, or a single one in the job's own process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint
from ray.train.torch import get_device

from metgan_dist.training.preemption import Preemption


class Team(ABC):
    """This worker's rank among `world` and its device, and what they do together."""

    rank: int
    world: int
    device: torch.device

    @abstractmethod
    def last_checkpoint(self) -> AbstractContextManager[Path | None]:
        """A local folder with the last checkpoint of the training, the parts of all ranks; None where it has none."""

    @abstractmethod
    def keep(self, folder: Path, name: str, metrics: dict[str, Any]) -> None:
        """Store a checkpoint, this rank's part of it, by name; by its `metrics` the best one is chosen."""

    @abstractmethod
    def leaving(self, say: Callable[[str], None]) -> Callable[[], bool]:
        """What the loop asks every few steps: whether a machine is about to be taken away."""


class RayTeam(Team):
    """The workers of Ray Train, which starts them again from the last checkpoint when one is lost."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = get_device()

    @contextmanager
    def last_checkpoint(self) -> Iterator[Path | None]:
        kept = ray.train.get_checkpoint()
        if kept is None:
            yield None
            return
        with kept.as_directory() as folder:
            yield Path(folder)

    def keep(self, folder: Path, name: str, metrics: dict[str, Any]) -> None:
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder), checkpoint_dir_name=name)

    def leaving(self, say: Callable[[str], None]) -> Callable[[], bool]:
        return Preemption(say)
