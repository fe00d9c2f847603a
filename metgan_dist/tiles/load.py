"""What the tasks that read tiles run; without torch, whose import would cost each of their processes seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from metgan_dist.tiles.augment import augment
from metgan_dist.tiles.tile_set import TileReader

TARGET = "target_"
"""Begins what is planned of the tile that gives the tumour image alone, where anatomy and tumour are drawn apart."""

# Numbers of a batch by what they are called in a plan.
NUMBERS = {"tile": "tile", "organ": "organ", f"{TARGET}tile": "tumour_tile"}
# What each of two tiles that are drawn apart gives, and the word that keeps its augmentation apart from the other's and
# from the permutations.
SOURCE_ROLES, TARGET_ROLES = ("anatomy", "label"), ("tumour", "label")
SOURCE_DRAW, TARGET_DRAW = 1, 3


class Load:
    """Reads (and augments) planned tiles and stacks them; what a Ray task runs."""

    def __init__(
        self, reader: TileReader, augment_seed: int | None, affine: bool = False, shifted: bool = False
    ) -> None:
        self._reader, self._seed, self._affine, self._shifted = reader, augment_seed, affine, shifted

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(batch["tile"])
        return self.stack({key: values[place] for key, values in batch.items()} for place in range(count))

    def stack(self, planned: Iterable[dict[str, Any]]) -> dict[str, np.ndarray]:
        """Planned tiles as a batch: each role (N, ...) and the numbers (N,) `tile` and, if known, `organ`.

        Where two tiles are planned for an image, the second gives `tumour`, `tumour_label` and the number
        `tumour_tile`, and the first the rest. Augmented if there is a seed.
        """
        loaded = []
        numbers: dict[str, list[int]] = {}
        for tile in planned:
            loaded.append(self._image(tile))
            for key in NUMBERS.keys() & tile.keys():
                numbers.setdefault(NUMBERS[key], []).append(int(tile[key]))
        stacked = {role: np.stack([pixels[role] for pixels in loaded]) for role in loaded[0]}
        return {**stacked, **{name: np.array(values) for name, values in numbers.items()}}

    def _image(self, tile: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The arrays of one image of the stream, from its tile or its two tiles."""
        target = {key.removeprefix(TARGET): value for key, value in tile.items() if key.startswith(TARGET)}
        if not target:
            return self._augmented(self._reader.load(dict(tile)), tile)
        own = self._augmented(self._reader.load(dict(tile), SOURCE_ROLES), tile)
        other = self._augmented(self._reader.load(target, TARGET_ROLES), tile, TARGET_DRAW)
        return {**own, **{role if role == "tumour" else f"tumour_{role}": pixels for role, pixels in other.items()}}

    def _augmented(
        self, pixels: dict[str, np.ndarray], tile: Mapping[str, Any], draw: int = SOURCE_DRAW
    ) -> dict[str, np.ndarray]:
        if self._seed is None:
            return pixels
        return augment(pixels, self._seed, int(tile["image"]), draw, affine=self._affine, shifted=self._shifted)
