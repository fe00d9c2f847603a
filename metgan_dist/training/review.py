"""Somebody who sees each report of a training, as it makes it, and says whether it goes on.

A training that is told to end does so by itself, at a checkpoint, with everything logged and what it held given back;
nothing has to be killed. One desk serves all trainings of a driver.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Report = dict[str, Any]


class _Desk:
    """The actor between trainings and whoever reviews them."""

    def __init__(self) -> None:
        self._rows: dict[str, asyncio.Queue[Report]] = defaultdict(asyncio.Queue)
        self._answers: dict[str, asyncio.Queue[bool]] = defaultdict(asyncio.Queue)
        self._ended: set[str] = set()
        self._rooms: dict[str, PlacementGroup] = {}

    async def report(self, key: str, row: Report) -> bool:
        if key in self._ended:  # by an answer that another worker, lost since, had waited for
            return False
        await self._rows[key].put(row)
        return await self._answers[key].get()

    async def row(self, key: str, seconds: float) -> Report | None:
        try:
            return await asyncio.wait_for(self._rows[key].get(), seconds)
        except TimeoutError:
            return None

    async def answer(self, key: str, goes_on: bool) -> None:
        if not goes_on:
            self._ended.add(key)
        await self._answers[key].put(goes_on)

    async def ended(self, key: str) -> bool:
        return key in self._ended

    async def enter(self, subject: str, room: PlacementGroup) -> None:
        self._rooms[subject] = room

    async def leave(self, subject: str) -> PlacementGroup | None:
        return self._rooms.pop(subject, None)


def open_desk() -> ActorHandle:
    """A desk on this node, for as long as the handle lives."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(_Desk).remote()


@dataclass(frozen=True)
class Review:
    """The review of one training: rank 0 of its workers has a copy, and so has the reviewer.

    `subject` names what is trained, however often it is begun; `key` is this time.
    """

    desk: ActorHandle
    subject: str
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def enter(self) -> None:
        """The worker's: remember what the cluster has set aside for it."""
        room = ray.util.get_current_placement_group()
        if room is not None:
            ray.get(self.desk.enter.remote(self.subject, room))

    def goes_on(self, row: Report) -> bool:
        """The worker's: report, and wait for the answer."""
        return bool(ray.get(self.desk.report.remote(self.key, row)))

    def next_row(self, seconds: float) -> Report | None:
        """The reviewer's: the next report, None if there is none within so many seconds."""
        return ray.get(self.desk.row.remote(self.key, seconds))

    def answer(self, goes_on: bool) -> None:
        """The reviewer's: to the report that waits, or the next one."""
        ray.get(self.desk.answer.remote(self.key, goes_on))

    @property
    def ended(self) -> bool:
        """Whether the training was told to end."""
        return bool(ray.get(self.desk.ended.remote(self.key)))

    def clear(self) -> None:
        """The reviewer's, before a training begins: give back what an earlier one of the subject died with."""
        room = ray.get(self.desk.leave.remote(self.subject))
        if room is not None:
            remove_placement_group(room)
