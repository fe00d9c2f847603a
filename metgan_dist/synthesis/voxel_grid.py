"""The grid on which a volume is translated and written: voxels of the size that the generator was trained on.

That is `tiles.spacing` where the tiles were resampled, else the volume's own voxels. What is generated is written as it
lies on that grid, not brought back to the volume's: nothing would be known of what lies between its voxels, and tiles
cut with the same settings are then cut from the very voxels that were generated. The affine follows the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metgan_dist.recipe import Tiles
from metgan_dist.tiles import cardiac
from metgan_dist.tiles.cut import resample
from metgan_dist.tiles.geometry import target_factors
from metgan_dist.volumes.labelled import LabelledVolume
from metgan_dist.volumes.volume import Region, Spacing

Triplet = tuple[int, int, int]


@dataclass(frozen=True)
class VoxelGrid:
    """A grid laid on a volume: its shape (z, y, x), the region of the volume that it covers, and what is missing there.

    pad: voxels of the volume before and after the region, beyond its ends.
    """

    shape: Triplet
    region: Region
    pad: Region = ((0, 0), (0, 0), (0, 0))

    @staticmethod
    def over(tiles: Tiles, volume: LabelledVolume) -> VoxelGrid:
        """A grid over a whole volume; `tiles`: the section that the generator's tiles were cut with.

        UserError where tiles were resampled and the volume does not say its voxel size.
        """
        shape = tuple(
            max(1, round(length / factor))
            for length, factor in zip(volume.shape, voxel_factors(tiles, volume), strict=True)
        )
        z, y, x = volume.shape
        return VoxelGrid((shape[0], shape[1], shape[2]), ((0, z), (0, y), (0, x)))

    @staticmethod
    def around_heart(tiles: Tiles, volume: LabelledVolume, label: np.ndarray) -> VoxelGrid:
        """The box around the labelled heart that cardiac tiles are cut from; the volume's middle where nothing is."""
        z, y, x = volume.shape
        whole: Region = (0, z), (0, y), (0, x)
        shape = cardiac_shape(tiles)
        centre = cardiac.heart_centre(lambda _: label, [whole]) or (z / 2, y / 2, x / 2)
        region, pad = cardiac.crop_region(centre, volume.shape, voxel_factors(tiles, volume), shape)
        return VoxelGrid(shape, region, pad)

    @property
    def factors(self) -> tuple[float, float, float]:
        """Voxels of the volume along one of the grid, along z, y, x."""
        extents = (
            stop - start + before + after for (start, stop), (before, after) in zip(self.region, self.pad, strict=True)
        )
        z, y, x = (extent / length for extent, length in zip(extents, self.shape, strict=True))
        return z, y, x

    def brought(self, voxels: np.ndarray, *, is_label: bool) -> np.ndarray:
        """What a volume has in the region (z, y, x) on the grid, as tiles are: images linear, labels nearest.

        Itself where the grid is the volume's own. Beyond the volume lies the lowest value, or background.
        """
        if any(before or after for before, after in self.pad):
            voxels = np.pad(voxels, self.pad, constant_values=0 if is_label else voxels.min())
        return voxels if voxels.shape == self.shape else resample(voxels, self.shape, is_label=is_label)

    def affine(self, affine: np.ndarray) -> np.ndarray:
        """4x4 from voxels (x, y, z) of the grid to millimetres, of that of the volume."""
        onto = np.eye(4)
        for axis, factor in enumerate(self.factors[::-1]):
            first = self.region[2 - axis][0] - self.pad[2 - axis][0]
            # The first voxel's corner is that of the first voxel which it covers, so its centre lies further in.
            onto[axis, axis], onto[axis, 3] = factor, first + (factor - 1) / 2
        return affine @ onto

    def spacing(self, at: Spacing | None) -> Spacing | None:
        """Voxel size of the grid, of that of the volume."""
        if at is None:
            return None
        z, y, x = self.factors
        return Spacing(at.z * z, at.y * y, at.x * x, at.unit)


def voxel_factors(tiles: Tiles, volume: LabelledVolume) -> tuple[float, float, float]:
    """Voxels of a volume along one that the generator was trained on, along z, y, x.

    Slices are the planes of a volume, whatever their distance; those of a heart were resampled along z, too.
    """
    heart = tiles.modality.startswith("cardiac")
    if heart and tiles.spacing is None:
        tiles = tiles.model_copy(update={"spacing": cardiac.SPACING})
    at = volume.spacing
    z, y, x = target_factors(tiles, volume.id, (at.z, at.y, at.x) if at else None)
    return z if heart or tiles.dimensions == 3 else 1.0, y, x


def cardiac_shape(tiles: Tiles) -> Triplet:
    """Voxels (z, y, x) of the box around a heart from which cardiac tiles are cut."""
    z, y, x = tiles.size if len(tiles.size) == 3 else cardiac.SHAPE
    return z, y, x
