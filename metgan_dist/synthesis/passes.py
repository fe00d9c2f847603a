"""A pass over the blocks of a volume on Ray Data: one task (or one call of an actor) a block, markers, progress.

A block's marker, a small file written last, holds what its task answered; a job that is started again does only the
blocks without one. Blocks do not depend on how many tasks run at once.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import ray.data

from metgan_dist.cluster.progress import Progress, quiet
from metgan_dist.errors import UserError
from metgan_dist.storage import Options, entries, exists, filesystem, join, read_bytes, read_json, write_whole
from metgan_dist.synthesis.crew import Crew

Work = Callable[[Any], Any]
PLAN = "plan.json"


@dataclass(frozen=True)
class Pass:
    """A pass over blocks: `title` for progress; `markers`, the folder of their markers, or None to keep none.

    unit: what messages call blocks.
    """

    title: str
    markers: str | None
    options: Options
    report: Callable[[str], None]
    unit: str = "blocks"

    def tasks(self, work: Work, jobs: Mapping[str, Any]) -> Iterator[Any]:
        """The answers of `work(job)`, of the jobs in their order; with markers, JSON-able, those known first."""
        known, todo = self._known(jobs)
        yield from known
        if len(todo) == 1:  # not worth a task
            yield from (self._marked(name, work(job)) for name, job in todo.items())
        elif todo:
            free = max(1, int(ray.cluster_resources().get("CPU", 1)))
            at_once = min(len(todo), free + 1)
            share = min(1.0, round(free / at_once - 0.001, 3))
            # Files are written by the task that answers, so that an answer that is lost is not work that is lost.
            dataset = _blocks(todo).map(
                _Task(work, self.markers, self.options),
                num_cpus=share,
                compute=ray.data.TaskPoolStrategy(size=at_once),
            )
            yield from self._answers(dataset, len(jobs), len(known))

    def in_turn(self, work: Work, jobs: Mapping[str, Any]) -> Iterator[Any]:
        """As `tasks`, one after the other in this process: nothing of Ray's is asked."""
        known, todo = self._known(jobs)
        yield from known
        progress = Progress(self.report, self.title, len(jobs), done=len(known), unit=self.unit)
        for count, (name, job) in enumerate(todo.items(), len(known) + 1):
            yield self._marked(name, work(job))
            progress.step(count)

    def crewed(self, make: Callable[[], Work], jobs: Mapping[str, Any], crew: Crew) -> Iterator[dict[str, Any]]:
        """The answers of `make()(job)`, by actors that make it once each: it holds a replica of the generator."""
        known, todo = self._known(jobs)
        yield from known
        if not todo:
            return
        share: dict[str, Any] = {"num_gpus": crew.gpus} if crew.gpus else {"num_cpus": crew.cpus}
        dataset = _blocks(todo).map(
            _Actor,
            fn_constructor_args=(make, self.markers, self.options),
            compute=ray.data.ActorPoolStrategy(size=min(len(todo), crew.replicas)),
            **share,
        )
        yield from self._answers(dataset, len(jobs), len(known))

    def _known(self, jobs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """(answers of the blocks that have a marker, jobs of those that have none)."""
        if self.markers is None or not exists(self.markers, self.options):
            return [], dict(jobs)
        there = {file.removesuffix(".json") for file in entries(self.markers, self.options)[0]}
        known = [read_json(_marker(self.markers, name), self.options) for name in jobs if name in there]
        if known:
            self.report(f"{self.title}: {len(known)} of {len(jobs)} {self.unit} are there already")
        return known, {name: job for name, job in jobs.items() if name not in there}

    def _marked(self, name: str, answer: Any) -> Any:
        if self.markers is not None:
            write_whole(_marker(self.markers, name), json.dumps(answer).encode(), self.options)
        return answer

    def _answers(self, dataset: ray.data.Dataset, total: int, done: int) -> Iterator[Any]:
        quiet(dataset)
        dataset.context.execution_options.preserve_order = True
        progress = Progress(self.report, self.title, total, done=done, unit=self.unit)
        for count, row in enumerate(dataset.iter_rows(), done + 1):
            answer = pickle.loads(row["answer"])
            if row["mistake"]:
                raise UserError(answer)
            yield answer
            progress.step(count)


def begin_pass(
    markers: str, facts: Mapping[str, Any], options: Options, report: Callable[[str], None], afresh: str
) -> None:
    """Note in the folder of the markers what the blocks follow from, before the first is done.

    Where an earlier start had other facts, its blocks are forgotten, after the line `afresh`.
    """
    uri, begun = join(markers, PLAN), json.dumps(facts, sort_keys=True).encode()
    if exists(uri, options) and read_bytes(uri, options) == begun:
        return
    if exists(uri, options):
        report(afresh)
    remove_markers(markers, options)
    write_whole(uri, begun, options)


def remove_markers(folder: str, options: Options) -> None:
    """Forget all blocks that were done."""
    fs, path = filesystem(folder, options)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def _marker(folder: str, name: str) -> str:
    return join(folder, f"{name}.json")


def _blocks(jobs: Mapping[str, Any]) -> ray.data.Dataset:
    items = [{"name": name, "job": pickle.dumps(job)} for name, job in jobs.items()]
    return ray.data.from_items(items, override_num_blocks=len(items))


class _Task:
    """What a task runs: the work, then the marker. A user's mistake comes back as a line of text."""

    def __init__(self, work: Work, markers: str | None, options: Options) -> None:
        self._work, self._pass = work, Pass("", markers, options, print)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = self._pass._marked(row["name"], self._work(pickle.loads(row["job"])))
        except UserError as error:
            return {"answer": pickle.dumps(str(error)), "mistake": True}
        return {"answer": pickle.dumps(answer), "mistake": False}


class _Actor(_Task):
    """The same with what is made once."""

    def __init__(self, make: Callable[[], Work], markers: str | None, options: Options) -> None:
        super().__init__(make(), markers, options)
