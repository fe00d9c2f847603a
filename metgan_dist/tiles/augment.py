"""Random flips and quarter turns, the same for all channels of a tile."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def augment(tile: Mapping[str, np.ndarray], seed: int, position: int, draw: int = 1) -> dict[str, np.ndarray]:
    """A tile flipped along each axis or not, and turned in its plane by 0 to 3 quarter turns.

    What is done depends on (seed, position, draw) alone, not on how the tile is read. Spatial axes are the last two of
    every array, three for volumes (label without a channel axis tells which); turns stay in y, x, half turns only where
    the tile is not square.

    Args:
        tile: anatomy, tumour (C, [D,] H, W) and label ([D,] H, W), those that there are.
        seed: `training.seed`.
        position: of the tile in the stream of images.
        draw: another number for each of several tiles at one position.
    """
    image = next(pixels for role, pixels in tile.items() if role != "label")
    dimensions = image.ndim - 1
    # The third word keeps this stream apart from the permutations, which use (seed, epoch) and (seed, epoch, 2).
    random = np.random.Generator(np.random.PCG64([seed, position, draw]))
    flips = tuple(axis - dimensions for axis in range(dimensions) if random.random() < 0.5)
    height, width = image.shape[-2:]
    turns = int(random.integers(4)) if height == width else 2 * int(random.integers(2))
    return {
        # Flips and turns are views with negative strides, which torch refuses.
        role: np.ascontiguousarray(np.rot90(np.flip(pixels, flips), turns, axes=(-2, -1)))
        for role, pixels in tile.items()
    }
