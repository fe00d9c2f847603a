"""Scoring the live method on held-out tiles, all ranks together; what is scored, and how, its task says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from metgan_dist.scores.scored import Scored
from metgan_dist.tasks import GENERATED, Task
from metgan_dist.tasks.pictures import on_device, picture_rows
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.tiles.tile_set import chosen_rows
from metgan_dist.training.step import Stepper

BATCH = 4


@dataclass
class Validator:
    """Scores the live method on tiles of a split, at most so many of each sample; every rank takes its part of them.

    The samples that do not depend on the method are scored once.
    """

    task: Task
    device: torch.device
    rank: int = 0
    world: int = 1
    most: int = 64
    split: str = "val"
    _constant: dict[str, Scored] = field(default_factory=dict, init=False)

    def __call__(self, stepper: Stepper) -> tuple[dict[str, float], bytes | None]:
        """Scores over all ranks (`Task.summary`) and, on rank 0, a PNG grid; nothing where there are no such tiles."""
        samples = {name: chosen_rows(rows, self.most) for name, rows in self.task.samples(self.split).items()}
        if not len(samples[GENERATED]):
            return {}, None
        constant = {name: rows for name, rows in samples.items() if name in self.task.of_real}
        changing = {name: rows for name, rows in samples.items() if name not in constant}
        with stepper.inference() as method:
            own = {name: self._scored(name, rows, method) for name, rows in changing.items()}
            picture = None
            if self.rank == 0:
                shown = picture_rows(self.task.tiles, samples[GENERATED])
                picture = self.task.grid(method, shown, self.device)
        if not self._constant:
            own |= {name: self._scored(name, rows, None) for name, rows in constant.items()}
        parts: list[Any] = [own]
        if self.world > 1:
            parts *= self.world
            dist.all_gather_object(parts, own)
        scored = {name: Scored.joined(part[name] for part in parts) for name in own}
        self._constant |= {name: scored[name] for name in constant if name in scored}
        return self.task.summary({**scored, **self._constant}), picture

    def _scored(self, sample: str, rows: np.ndarray, method: Any) -> Scored:
        """What this rank scores of a sample; without a method, of real images."""
        scorer = self.task.scorer(sample)
        organs = () if method is None else method.organs
        for batch in tile_batches(self.task.tiles, rows[self.rank :: self.world], BATCH, organs):
            self.task.score(sample, scorer, on_device(batch, self.device), method)
        return scorer.scored()
