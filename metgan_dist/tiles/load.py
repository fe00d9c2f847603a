"""What the tasks that read tiles run; without torch, whose import would cost each of their processes seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from metgan_dist.tiles.augment import augment
from metgan_dist.tiles.tile_set import TileReader

NUMBERS = {"tile", "organ"}


class Load:
    """Reads (and augments) planned tiles and stacks them; what a Ray task runs."""

    def __init__(self, reader: TileReader, augment_seed: int | None, affine: bool = False) -> None:
        self._reader, self._seed, self._affine = reader, augment_seed, affine

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(batch["tile"])
        return self.stack({key: values[place] for key, values in batch.items()} for place in range(count))

    def stack(self, planned: Iterable[dict[str, Any]]) -> dict[str, np.ndarray]:
        """Planned tiles as a batch: each role (N, ...) and the numbers (N,) `tile` and, if known, `organ`.

        Augmented if there is a seed.
        """
        loaded = []
        numbers: dict[str, list[int]] = {}
        for tile in planned:
            pixels = self._reader.load(tile)
            if self._seed is not None:
                pixels = augment(pixels, self._seed, int(tile["image"]), self._affine)
            loaded.append(pixels)
            for name in NUMBERS & tile.keys():
                numbers.setdefault(name, []).append(int(tile[name]))
        stacked = {role: np.stack([pixels[role] for pixels in loaded]) for role in loaded[0]}
        return {**stacked, **{name: np.array(values) for name, values in numbers.items()}}
