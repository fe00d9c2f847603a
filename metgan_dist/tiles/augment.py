"""Random flips and quarter turns, and on request affine maps and shifts, the same for all channels of a tile."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

# Of an affine map: degrees about each axis, and how far scales and shears along each may be from 1 and 0; how far a
# shift goes, as a share of each edge.
ANGLE, SCALE, SHEAR, SHIFT = 15.0, 0.1, 0.1, 0.1


def augment(
    tile: Mapping[str, np.ndarray],
    seed: int,
    position: int,
    draw: int = 1,
    *,
    affine: bool = False,
    shifted: bool = False,
) -> dict[str, np.ndarray]:
    """A tile flipped along each axis or not, and turned in its plane by 0 to 3 quarter turns; with `affine` then bent.

    What is done depends on (seed, position, draw) alone, not on how the tile is read. Turns stay in y, x, half turns
    only where the tile is not square. An affine map in pixels rotates by up to 15 degrees (volumes about each axis),
    scales each axis by 0.9 to 1.1 and shears by up to 0.1, about the middle of the tile, whose content is continued by
    reflection: images linearly, so that they stay within their range, labels by nearest neighbour.

    Args:
        tile: images (C, [D,] H, W) and labels ([D,] H, W), those that there are; labels are called so at the end of
            their names.
        seed: `training.seed`.
        position: of the tile in the stream of images.
        draw: another number for each of several tiles at one position.
        affine: whether there is an affine map.
        shifted: whether it also moves the tile, by up to a tenth of each edge.
    """
    shape = next(pixels.shape if _is_label(role) else pixels.shape[1:] for role, pixels in tile.items())
    dimensions, (height, width) = len(shape), shape[-2:]
    # The third word keeps this stream apart from the permutations, which use (seed, epoch) and (seed, epoch, 2).
    random = np.random.Generator(np.random.PCG64([seed, position, draw]))
    flips = tuple(axis - dimensions for axis in range(dimensions) if random.random() < 0.5)
    turns = int(random.integers(4)) if height == width else 2 * int(random.integers(2))
    turned = {
        # Flips and turns are views with negative strides, which torch refuses.
        role: np.ascontiguousarray(np.rot90(np.flip(pixels, flips), turns, axes=(-2, -1)))
        for role, pixels in tile.items()
    }
    if not affine:
        return turned
    matrix = random_affine(dimensions, random)
    # Drawn last, so that everything else is as it is without a shift.
    shift = random.uniform(-SHIFT, SHIFT, dimensions) * shape if shifted else np.zeros(dimensions)
    return {
        role: moved(pixels, matrix, 0, shift)
        if _is_label(role)
        else np.stack([moved(image, matrix, 1, shift) for image in pixels])
        for role, pixels in turned.items()
    }


def random_affine(dimensions: int, random: np.random.Generator) -> np.ndarray:
    """The matrix (dimensions, dimensions) of a random rotation after a random shear and scale."""
    matrix = np.diag(random.uniform(1 - SCALE, 1 + SCALE, dimensions))
    for row, column in combinations(range(dimensions), 2):
        matrix[row, column] = random.uniform(-SHEAR, SHEAR)
    for first, second in combinations(range(dimensions), 2):
        angle = np.deg2rad(random.uniform(-ANGLE, ANGLE))
        rotation = np.eye(dimensions)
        rotation[[first, second], [first, second]] = np.cos(angle)
        rotation[first, second], rotation[second, first] = -np.sin(angle), np.sin(angle)
        matrix = rotation @ matrix
    return matrix


def moved(
    pixels: np.ndarray, matrix: np.ndarray, order: int, shift: np.ndarray | tuple[float, ...] = (0.0,)
) -> np.ndarray:
    """`pixels` ([D,] H, W) in their own type, each taken `shift` pixels beside where `matrix` leads from the middle."""
    import scipy  # not in each process that reads tiles

    middle = (np.array(pixels.shape) - 1) / 2
    offset = middle - matrix @ middle + shift
    return scipy.ndimage.affine_transform(pixels, matrix, offset=offset, order=order, mode="reflect")


def _is_label(role: str) -> bool:
    return role.endswith("label")
