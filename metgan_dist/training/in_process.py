"""A training in the job's own process: nothing to start, which is what a laptop, a notebook or a test wants."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from metgan_dist.storage import filesystem, is_local, join
from metgan_dist.training.assignment import Assignment
from metgan_dist.training.choice import Choice
from metgan_dist.training.snapshot import Snapshot, read_snapshot
from metgan_dist.training.team import Team
from metgan_dist.training.worker import work


def work_here(assignment: Assignment, report: Callable[[str], None]) -> Snapshot:
    """Do what a single worker of Ray Train would do, to the last bit; the checkpoints that it leaves.

    Nothing restarts it: a failure is the job's, and the same command continues.
    """
    with left_as_it_was():
        work(assignment, Alone(assignment), report)
    return read_snapshot(assignment.folder, assignment.options)


@contextmanager
def left_as_it_was() -> Iterator[None]:
    """Number of threads and random state of this process are, after the block, what they were before it."""
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(threads)


class Alone(Team):
    """The only worker."""

    rank, world, local_rank = 0, 1, 0

    def __init__(self, assignment: Assignment) -> None:
        self.device = torch.device("cuda" if assignment.plan.gpus_per_worker and torch.cuda.is_available() else "cpu")
        self._folder, self._options = assignment.folder, assignment.options
        self._keep = assignment.keep_last
        self._order = Choice.of(assignment.recipe).ranked

    def last_checkpoint(self) -> str | None:
        latest = read_snapshot(self._folder, self._options).latest
        return None if latest is None else join(self._folder, latest.name)

    def keep(self, folder: Path, name: str, metrics: dict[str, Any], *, wait: bool = False) -> None:
        before = read_snapshot(self._folder, self._options)
        self._store(folder, name)
        order, most = (None, self._keep) if self._keep else (self._order, 1)
        after = before.with_report(name, metrics, order, most)
        after.write(self._folder, self._options)
        # Only what is no longer on the list goes: killed in between, a run has a checkpoint too many, never too few.
        for gone in {one.name for one in before.kept} - {one.name for one in after.kept}:
            fs, path = filesystem(join(self._folder, gone), self._options)
            fs.rm(path, recursive=True)

    def leaving(self, say: Callable[[str], None]) -> Callable[[], bool]:
        return lambda: False

    def _store(self, folder: Path, name: str) -> None:
        fs, path = filesystem(join(self._folder, name), self._options)
        if fs.exists(path):  # a checkpoint that an earlier start wrote, and was ended before it was on the list
            fs.rm(path, recursive=True)
        if is_local(self._folder):
            shutil.copytree(folder, path)
        else:
            fs.put(f"{folder}/", f"{path}/", recursive=True)
