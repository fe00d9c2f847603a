"""The workers that train together, as one of them sees them: Ray Train's, or a single one in the job's own process."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointConsistencyMode, CheckpointUploadMode
from ray.train.torch import get_device

from metgan_dist.storage import Options, absolute, basename, fetch, is_local, join, one_line
from metgan_dist.training.assignment import Assignment
from metgan_dist.training.checkpoint import SHARED, own_files
from metgan_dist.training.preemption import Preemption


class Team(ABC):
    """This worker's rank among `world`, its place `local_rank` on its node, its device, and what they do together."""

    rank: int
    world: int
    local_rank: int
    device: torch.device

    @abstractmethod
    def last_checkpoint(self) -> str | None:
        """The training's last checkpoint; None where it has none."""

    @abstractmethod
    def keep(self, folder: Path, name: str, metrics: dict[str, Any], *, wait: bool = False) -> None:
        """Store a checkpoint, this rank's part of it, by name; by its `metrics` the best one is chosen.

        The files may be taken out of `folder`, and stored while training goes on, unless it is to `wait` for that.
        """

    @abstractmethod
    def leaving(self, say: Callable[[str], None]) -> Callable[[], bool]:
        """What the loop asks every few steps: whether a machine is about to be taken away."""

    @contextmanager
    def fetched(self, uri: str, options: Options) -> Iterator[Path]:
        """A local folder, for the block, with what this rank needs of a checkpoint; all ranks call it alike.

        Of a remote one each rank fetches its own file, and the first of each node what all of them share.
        """
        if is_local(uri):
            yield Path(absolute(uri))
            return
        folder = Path(tempfile.gettempdir(), f"metgan-checkpoint-{self._agreed(uuid.uuid4().hex)}")
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            names = own_files(self.rank) + (SHARED if self.local_rank == 0 else ())
            fetch(uri, options, names, folder)
            if self.world > 1:
                dist.barrier()
            yield folder
        finally:
            if self.local_rank == 0:
                shutil.rmtree(folder, ignore_errors=True)

    def _agreed(self, word: str) -> str:
        """The word of rank 0."""
        words = [word]
        if self.world > 1:
            dist.broadcast_object_list(words, 0)
        return words[0]


class RayTeam(Team):
    """The workers of Ray Train, which starts them again from the last checkpoint when one is lost.

    One checkpoint at a time is stored while training goes on: the next one, and the end of the training, for which Ray
    sees to it, wait for that. One that cannot be stored fails this worker, and so the training, as any error does.
    """

    def __init__(self, assignment: Assignment, say: Callable[[str], None]) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.local_rank, self.device = context.get_local_rank(), get_device()
        self._assignment, self._say = assignment, say

    def last_checkpoint(self) -> str | None:
        kept = ray.train.get_checkpoint()
        return None if kept is None else join(self._assignment.folder, basename(kept.path))

    def keep(self, folder: Path, name: str, metrics: dict[str, Any], *, wait: bool = False) -> None:
        self._wait_until_stored()
        # Of Ray's own, which removes it: the loop's goes as soon as this returns.
        staged = Path(tempfile.mkdtemp(prefix="metgan-checkpoint-"))
        for file in folder.iterdir():
            file.rename(staged / file.name)
        ray.train.report(
            metrics,
            checkpoint=Checkpoint.from_directory(staged),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=self._store,
        )
        if wait:
            self._wait_until_stored()

    def leaving(self, say: Callable[[str], None]) -> Callable[[], bool]:
        return Preemption(say)

    def _wait_until_stored(self) -> None:
        """Until all ranks have stored what they have reported so far."""
        ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)

    def _store(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        """As Ray does it, in a thread of its own; what goes wrong says of which checkpoint."""
        try:
            return ray.train.get_context().get_storage().persist_current_checkpoint(checkpoint, name)
        except Exception as error:
            reason = f"checkpoint {name} cannot be stored ({type(error).__name__}: {one_line(error)})"
            if self.rank == 0:
                self._say(f"{self._assignment.role}: {reason}; it restarts if it may")
            raise OSError(f"{self._assignment.role}: {reason}") from error
