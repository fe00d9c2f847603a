"""What the tasks that read tiles run; without torch, whose import would cost each of their processes seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from metgan_dist.tiles.augment import augment
from metgan_dist.tiles.reader import TileReader

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
        planned = [dict(tile) for tile in planned]
        numbers: dict[str, list[int]] = {}
        for tile in planned:
            for key in NUMBERS.keys() & tile.keys():
                numbers.setdefault(NUMBERS[key], []).append(int(tile[key]))
        loaded = self._images(planned)
        stacked = {role: np.stack([pixels[role] for pixels in loaded]) for role in loaded[0]}
        return {**stacked, **{name: np.array(values) for name, values in numbers.items()}}

    def _images(self, planned: Sequence[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
        """The arrays of images of the stream, each from its tile or its two tiles."""
        targets = [_target(tile) for tile in planned]
        if not targets[0]:
            return self._augmented(self._reader.load_together(planned), planned)
        own = self._augmented(self._reader.load_together(planned, SOURCE_ROLES), planned)
        others = self._augmented(self._reader.load_together(targets, TARGET_ROLES), planned, TARGET_DRAW)
        return [
            {**one, **{role if role == "tumour" else f"tumour_{role}": pixels for role, pixels in other.items()}}
            for one, other in zip(own, others, strict=True)
        ]

    def _augmented(
        self, loaded: list[dict[str, np.ndarray]], planned: Sequence[Mapping[str, Any]], draw: int = SOURCE_DRAW
    ) -> list[dict[str, np.ndarray]]:
        if self._seed is None:
            return loaded
        return [
            augment(pixels, self._seed, int(tile["image"]), draw, affine=self._affine, shifted=self._shifted)
            for pixels, tile in zip(loaded, planned, strict=True)
        ]


def _target(tile: Mapping[str, Any]) -> dict[str, Any]:
    """What is planned of the tile that gives the tumour image alone; nothing where one tile gives both."""
    return {key.removeprefix(TARGET): value for key, value in tile.items() if key.startswith(TARGET)}
