"""The shape of a drawn brain: where a point lies in it, whatever its tissues look like in an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metgan_dist.volumes.phantoms.field import Floats
from metgan_dist.volumes.phantoms.procedural import Block


@dataclass(frozen=True)
class InBrain:
    """Position (z, y, x from the middle, to broadcast) and, per voxel, about how many millimetres it lies below the
    surface of the brain (`depth`), from the fluid of sulci and surface (`sulci`), outside the ventricles (`chambers`)
    and outside the grey nuclei (`nuclei`); `rough` and `warp`: fine and coarse unit-variance noise."""

    at: tuple[Floats, Floats, Floats]
    depth: Floats
    sulci: Floats
    chambers: Floats
    nuclei: Floats
    rough: Floats
    warp: Floats


@dataclass(frozen=True)
class BrainShape:
    """The brain of one person, z from foot to head, y from front to back.

    centre: its middle in the volume, millimetres z, y, x; scale: of all lengths; ventricles: of the ventricles' width;
    seed: of its folds, from which sixteen fields of noise are drawn.
    """

    centre: tuple[float, float, float]
    scale: float
    ventricles: float
    seed: int

    def at(self, block: Block) -> InBrain:
        """Where every voxel of the block lies in the head."""
        z, y, x = (
            (axis - np.float32(middle)) / np.float32(self.scale)
            for axis, middle in zip(block.mesh(), self.centre, strict=True)
        )
        # Sixteen fields of noise to a seed, so that volumes of successive seeds have none in common.
        seed = self.seed * 16
        warp = block.noise(seed, 40)
        depth = outline(z, y, x) + 2.0 * warp
        folds = np.abs(block.noise(seed + 1, (24, 17, 17))) * np.float32(7)  # about millimetres to the nearest sulcus
        bent = np.abs(x + 0.8 * warp)
        # The gap between the hemispheres is open in front, behind and above, closed by the corpus callosum.
        gap = bent + np.maximum(-8 - z, 0) + 0.25 * np.maximum(30 - np.abs(y), 0)
        # Sulci end about 14 mm below the surface: farther in, the distance to the nearest grows with the depth.
        sulci = np.minimum(np.minimum(depth, folds + np.maximum(depth - 14, 0)), 1.2 * gap)
        return InBrain(
            (z, y, x),
            depth,
            sulci,
            self._ventricle_distance(z, y, bent) + 0.8 * warp,
            _deep_grey(z, y, np.abs(x)),
            block.noise(seed + 3, 9),
            warp,
        )

    def _ventricle_distance(self, z: Floats, y: Floats, x: Floats) -> Floats:
        """About millimetres outside the lateral and third ventricles (negative inside); x is unsigned."""
        size = np.float32(self.ventricles)
        middle = 7 + 0.012 * y * y / (1 + 0.01 * np.abs(y)) * np.where(y > 0, 1.6, 0.8)
        across = (x - middle) / (4.2 * size)
        height = (z - 12 + 0.12 * np.maximum(y, 0)) / (7.5 * size)
        along = np.maximum(np.abs(y - 2) - 30, 0) / 7
        lateral = np.sqrt(across**2 + height**2 + along**2)
        third = np.sqrt((x / 2.2) ** 2 + ((y - 4) / 13) ** 2 + ((z + 3) / 9) ** 2)
        fourth = np.sqrt((x / 6) ** 2 + ((y - 30) / 5) ** 2 + ((z + 38) / 9) ** 2)
        return np.minimum(np.minimum((lateral - 1) * 4, (third - 1) * 2.5), (fourth - 1) * 4).astype(np.float32)


def ellipsoid(z: Floats, y: Floats, x: Floats, centre: tuple[float, ...], radii: tuple[float, ...]) -> Floats:
    """Normalised radius minus 1: negative inside, 0 on the surface."""
    (cz, cy, cx), (rz, ry, rx) = centre, radii
    return np.sqrt(((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2).astype(np.float32) - np.float32(
        1
    )


def outline(z: Floats, y: Floats, x: Floats) -> Floats:
    """About millimetres below the surface of cerebrum, cerebellum and brain stem (negative outside)."""
    cerebrum = -62 * ellipsoid(z, y, x * (1 - 0.0012 * y), (8, 0, 0), (60, 84, 67))
    cerebrum = np.minimum(cerebrum, z + 34 - 0.10 * y + 0.15 * np.abs(x))  # flat base, temporal lobes hang lower
    return np.maximum(np.maximum(cerebrum, cerebellum(z, y, x)), stem(z, y, x))


def cerebellum(z: Floats, y: Floats, x: Floats) -> Floats:
    """About millimetres below the surface of the cerebellum (negative outside)."""
    return -30 * ellipsoid(z, y, x, (-38, 42, 0), (26, 34, 50))


def stem(z: Floats, y: Floats, x: Floats) -> Floats:
    """About millimetres below the surface of the brain-stem (negative outside)."""
    return -12 * ellipsoid(z, y, x, (-40, 14, 0), (40, 13, 15))


def _deep_grey(z: Floats, y: Floats, x: Floats) -> Floats:
    """About millimetres outside thalamus, lentiform and caudate nuclei (negative inside); x is unsigned."""
    thalamus = 9 * ellipsoid(z, y, x, (2, 12, 11), (9, 14, 8))
    lentiform = 9 * ellipsoid(z, y, x - 0.12 * y, (2, -6, 25), (10, 17, 6.5))
    caudate = 6 * ellipsoid(z, y, x, (9, -24, 13), (10, 9, 5))
    return np.minimum(np.minimum(thalamus, lentiform), caudate)
