"""One grid for every volume, whatever its own: so many voxels along z, y, x, some dropped at either end.

The extent of a volume stays, its voxels change: nothing is cut off or added before the margin is dropped. So a place on
the grid is a place in the volume and back, and `restored` and `affine` bring what was made on the grid to its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.recipe import Tiles
from metgan_dist.tiles import brain_dwi
from metgan_dist.tiles.blocks import Triplet
from metgan_dist.tiles.cut import resample


@dataclass(frozen=True)
class Placed:
    """How the voxels that tiles were cut from lie in the file: source = origin + factor * voxel (z, y, x)."""

    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    factor: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class WholeGrid:
    """size: voxels (z, y, x) that a whole volume is resampled to; margin: how many are dropped at either end."""

    size: Triplet
    margin: Triplet = (0, 0, 0)

    @property
    def shape(self) -> Triplet:
        """Voxels (z, y, x) that are left."""
        z, y, x = (length - 2 * margin for length, margin in zip(self.size, self.margin, strict=True))
        return z, y, x

    def placed(self, shape: Triplet) -> Placed:
        """Where the voxels that are left lie in a volume of this shape."""
        z, y, x = (length / size for length, size in zip(shape, self.size, strict=True))
        first = (self.margin[0] * z, self.margin[1] * y, self.margin[2] * x)
        return Placed(first, (z, y, x))

    def laid(self, voxels: np.ndarray, *, is_label: bool) -> np.ndarray:
        """A whole volume (z, y, x) on the grid, without its margin: an image float32, linear; a label nearest."""
        kept = tuple(slice(margin, size - margin) for margin, size in zip(self.margin, self.size, strict=True))
        return resample(voxels, self.size, is_label=is_label)[kept]

    def restored(self, voxels: np.ndarray, shape: Triplet, *, is_label: bool) -> np.ndarray:
        """What is on the grid, margin dropped, back on the voxels (z, y, x) of a volume; 0 where the margin was."""
        whole = np.pad(voxels, [(margin, margin) for margin in self.margin])
        return resample(whole, shape, is_label=is_label)

    def affine(self, affine: np.ndarray, shape: Triplet) -> np.ndarray:
        """4x4 from voxels (x, y, z) of what is left to millimetres, of a volume of this shape and affine.

        Corners stay where they are, so the middle of a voxel moves by half of what it grows.
        """
        at = self.placed(shape)
        factor, origin = np.array(at.factor[::-1]), np.array(at.origin[::-1])
        step = np.eye(4)
        step[:3, :3] = np.diag(factor)
        step[:3, 3] = origin + factor / 2 - 0.5
        return affine @ step


def grid_of(tiles: Tiles) -> WholeGrid | None:
    """The grid of `tiles.grid`, else that of paper 4 for brain DWI, which has its margin; None for volumes as they are.

    Raises UserError where the rules have another way to bring volumes to one size, or a margin leaves nothing.
    """
    paper = tiles.modality == "brain-dwi"
    if tiles.grid is None and not paper:
        if tiles.margin is not None:
            raise UserError("tiles.margin: drops voxels of a grid that all volumes have; give tiles.grid, too")
        return None
    size = tiles.grid or brain_dwi.GRID
    if tiles.modality.startswith("cardiac"):
        raise UserError(f"tiles.grid: {tiles.modality} tiles are cut around the heart, at tiles.spacing; leave it out")
    if tiles.spacing is not None:
        what = "brain-dwi is resampled to" if tiles.grid is None else "tiles.grid has"
        raise UserError(
            f"tiles.spacing: {what} {size[2]} x {size[1]} x {size[0]} voxels, whatever their size; leave it out"
        )
    usual = brain_dwi.MARGIN if paper and tiles.grid is None else (0, 0, 0)
    grid = WholeGrid(size, usual if tiles.margin is None else tiles.margin)
    if min(grid.shape) < 1:
        raise UserError(f"tiles.margin: {grid.margin} at either end leaves nothing of {size} voxels (z, y, x)")
    return grid
