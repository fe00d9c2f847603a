"""What methods are for: what a batch holds, how a method is scored, validated and shown. One file for each task.

A new task is a new file here and one line in TASKS.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from metgan_dist.methods.method import Method
from metgan_dist.tasks.label_to_image import LabelToImage
from metgan_dist.tasks.mask_generation import MaskGeneration
from metgan_dist.tasks.one_image import OneImage
from metgan_dist.tasks.paired import Paired
from metgan_dist.tasks.segmentation import Segmentation
from metgan_dist.tasks.task import GENERATED, REAL, Drawn, Maker, Task, Wanted
from metgan_dist.tasks.unpaired import Unpaired
from metgan_dist.tiles.tile_set import TileSet

__all__ = ["GENERATED", "REAL", "TASKS", "Drawn", "Maker", "Task", "Wanted", "task_class", "task_named", "task_of"]

TASKS: MappingProxyType[str, type[Task]] = MappingProxyType(
    {task.name: task for task in (Paired, LabelToImage, Unpaired, Segmentation, MaskGeneration, OneImage)}
)


def task_class(method: Method | type[Method], apart: bool) -> type[Task]:
    """The task of a method on tiles whose images are `apart`, that is, of two domains, or on pairs.

    It follows from both: a method that trains unpaired is scored by pairs wherever there are any, since nothing says
    more; and one of pairs that trains on two domains, without its pair loss, has none to be scored by.
    """
    name = method.task
    if name in (Paired.name, Unpaired.name):
        name = Unpaired.name if apart else Paired.name
    return TASKS[name]


def task_named(name: str, tiles: TileSet, judges: Mapping[str, Method] | None = None) -> Task:
    """A task by its name, on a set of tiles."""
    return TASKS[name](tiles, judges)


def task_of(method: Method | type[Method], tiles: TileSet, judges: Mapping[str, Method | None] | None = None) -> Task:
    """The task of a method on a set of tiles; `judges` by role, those that are None being none."""
    there = {role: judge for role, judge in (judges or {}).items() if judge is not None}
    return task_class(method, not tiles.has("anatomy", "tumour"))(tiles, there).of_method(method)
