"""Intensities of what is generated: those of the training data's images, in their type."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metgan_dist.tiles.intensity import invert
from metgan_dist.tiles.tile_set import TileSet


def median_ranges(tiles: TileSet) -> list[tuple[float, float]]:
    """Intensities that -1 and 1 of each tumour channel become: the median low and high of the training tiles."""
    training = tiles.index[tiles.index["split"] == "train"]
    ends = [(f"{layer}_low", f"{layer}_high") for layer in tiles.layers("tumour")]
    return [(float(training[low].median()), float(training[high].median())) for low, high in ends]


def joint_type(tiles: TileSet) -> str:
    """Type of the tumour channels of the volumes of a set; one that holds them all where they differ."""
    volumes, layers = tiles.manifest["volumes"], [tiles.reader.stored.get(own, own) for own in tiles.layers("tumour")]
    return str(np.result_type(*(volume["dtypes"][layer] for volume in volumes for layer in layers)))


def as_stored(image: np.ndarray, ranges: Sequence[tuple[float, float]], dtype: np.dtype) -> np.ndarray:
    """Images (C, [z,] y, x) in [-1, 1] as intensities of `ranges`, one a channel, in a type: rounded for integers."""
    return as_type(np.stack([invert(own, *ends) for own, ends in zip(image, ranges, strict=True)]), dtype)


def as_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Intensities in a type: rounded for integers, and what it has no room for as near as it comes."""
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(values).clip(limits.min, limits.max).astype(dtype)
