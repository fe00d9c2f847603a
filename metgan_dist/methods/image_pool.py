"""The pool of past fakes from which discriminators are shown half of what they see (CycleGAN, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metgan_dist.networks.eager import eager


class ImagePool:
    """The last `size` generated images; keeps a discriminator from forgetting what it has learned.

    While it fills, images pass through. Once full, an image is with probability 1/2 exchanged with a random older one,
    which is returned in its place. An entry may be several tensors (an image and its condition) that stay together.

    Entries live where the images live. The draws come from a generator of the pool's own, on the CPU, so that they
    neither depend on nor disturb other random numbers.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        """A pool of `size` images; 0 returns every image as it came."""
        self.size = size
        self.entries: list[tuple[Tensor, ...]] = []
        self.random = torch.Generator()
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Restart the draws; the images stay."""
        self.random.manual_seed(seed)

    # Its state changes in every call, which a compiler would answer with a new compilation each time.
    @eager
    def query(self, *images: Tensor) -> tuple[Tensor, ...]:
        """Exchange a batch: tensors (N, ...), one per part of an entry, for as many of the same shapes, detached."""
        fresh = [image.detach() for image in images]
        if self.size == 0:
            return tuple(fresh)
        chosen = [self._exchange(tuple(part[n] for part in fresh)) for n in range(len(fresh[0]))]
        return tuple(torch.stack(part) for part in zip(*chosen, strict=True))

    def _exchange(self, entry: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # Clones, because a slice would keep its whole batch alive and compiled graphs reuse their output's memory.
        if len(self.entries) < self.size:
            self.entries.append(tuple(part.clone() for part in entry))
            return entry
        if torch.rand((), generator=self.random).item() < 0.5:
            return entry
        index = int(torch.randint(self.size, (), generator=self.random).item())
        old = self.entries[index]
        self.entries[index] = tuple(part.clone() for part in entry)
        return tuple(past.to(part) for past, part in zip(old, entry, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Images and random state, of tensors and integers only (loads with `weights_only=True`)."""
        return {
            "size": self.size,
            "entries": [list(entry) for entry in self.entries],
            "random": self.random.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`. A pool that is smaller now keeps the first images that fit."""
        self.entries = [tuple(entry) for entry in state["entries"][: self.size]]
        self.random.set_state(state["random"].cpu())
