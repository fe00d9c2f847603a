"""Tumours cut out of a volume, laid into another one, and blended with it; nothing of networks here.

Intensities are levels: 0 and 1 are the ends of a volume's range, so that volumes of other scanners and contrasts can
be pasted into each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # loads a part of itself when that is first used

from metgan_dist.errors import UserError
from metgan_dist.recipe import Tiles
from metgan_dist.synthesis.target_range import as_type
from metgan_dist.tiles.intensity import Histogram
from metgan_dist.tiles.ranges import range_of

TISSUE_BLUR = 2.0  # pixels: tissue is what is bright on the whole, not voxel by voxel
Corner = tuple[int, int, int]


@dataclass(frozen=True)
class Range:
    """The intensities that are the levels 0 and 1, of each channel and slice: float64 (C, slices, 1, 1)."""

    low: np.ndarray
    high: np.ndarray

    @staticmethod
    def of(image: np.ndarray, rules: Tiles) -> Range:
        """Of an image (C, slices, H, W), by the rules that tiles are cut with: of a whole volume or of each slice."""
        apart = rules.dimensions == 2 and rules.normalise_over != "volume"
        ends = [
            [range_of(Histogram.of(part), rules) for part in (channel if apart else channel[None])] for channel in image
        ]
        shape = (*image.shape[:2], 1, 1)
        low, high = (np.array([[pair[end] for pair in own] for own in ends], np.float64) for end in (0, 1))
        return Range(*(np.broadcast_to(own[..., None, None], shape) for own in (low, high)))

    def levels(self, image: np.ndarray) -> np.ndarray:
        """Levels of an image (C, slices, H, W), float32 within [0, 1]."""
        return np.clip((image - self.low) / (self.high - self.low), 0, 1).astype(np.float32)

    def intensities(self, levels: np.ndarray) -> np.ndarray:
        """What `levels` would be of, float64."""
        return self.low + levels.astype(np.float64) * (self.high - self.low)

    def part(self, slices: slice) -> Range:
        """That of some slices."""
        return Range(self.low[:, slices], self.high[:, slices])


@dataclass(frozen=True)
class Tumour:
    """A tumour in the box that it fills: mask, bool (d, h, w); levels (C, d, h, w); corner: where the box lay."""

    mask: np.ndarray
    levels: np.ndarray
    corner: Corner

    @staticmethod
    def cut(mask: np.ndarray, levels: np.ndarray) -> Tumour:
        """Of a volume's mask (D, H, W), which is not empty, and its levels (C, D, H, W)."""
        first, last = _extent(mask)
        box = tuple(slice(low, high) for low, high in zip(first, last, strict=True))
        return Tumour(mask[box], levels[:, *box], first)

    def about(self, centre: Corner) -> Corner:
        """Where its corner has to be for its middle to lie on a voxel."""
        z, y, x = (at - (length - 1) // 2 for at, length in zip(centre, self.mask.shape, strict=True))
        return z, y, x

    def fits(self, corner: Corner, shape: tuple[int, ...]) -> bool:
        """Whether its box, laid there, lies within a volume of a shape."""
        ends = zip(corner, self.mask.shape, shape, strict=True)
        return all(at >= 0 and at + length <= whole for at, length, whole in ends)

    def laid(self, corner: Corner, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """(mask, levels) on a whole volume of a shape, levels 0 around the tumour."""
        box = tuple(slice(at, at + length) for at, length in zip(corner, self.mask.shape, strict=True))
        mask, levels = np.zeros(shape, bool), np.zeros((len(self.levels), *shape), np.float32)
        mask[box], levels[:, *box] = self.mask, self.levels
        return mask, levels

    def drawn_corner(
        self, tissue: np.ndarray, random: np.random.Generator, *, name: str, inside: float, tries: int
    ) -> Corner:
        """A place about a voxel of tissue, drawn anew until a share `inside` of the tumour lies in tissue.

        tissue: bool, of the volume `name`. Raises UserError where there is none, or nowhere it fits.
        """
        voxels = np.flatnonzero(tissue)
        if not len(voxels):
            raise UserError(f"insertion.tissue: volume {name!r} has no voxel above this level; lower it")
        for _ in range(tries):
            z, y, x = np.unravel_index(voxels[random.integers(len(voxels))], tissue.shape)
            corner = self.about((int(z), int(y), int(x)))
            if not self.fits(corner, tissue.shape):
                continue
            box = tuple(slice(at, at + length) for at, length in zip(corner, self.mask.shape, strict=True))
            if tissue[box][self.mask].mean() >= inside:
                return corner
        extent = " x ".join(str(edge) for edge in self.mask.shape)
        raise UserError(
            f"insertion.tries: a tumour of {extent} voxels lies nowhere in the tissue of volume {name!r}, of {tries} "
            f"places that were drawn; raise it, or lower insertion.inside ({inside:g}) or insertion.tissue"
        )


def tissue_of(levels: np.ndarray, least: float) -> np.ndarray:
    """Where an image of levels (C, D, H, W), smoothed slice by slice, is above a level in some channel; bool."""
    smooth = scipy.ndimage.gaussian_filter(levels, (0, 0, TISSUE_BLUR, TISSUE_BLUR))
    return np.asarray((smooth > least).any(axis=0))


def blending(mask: np.ndarray, dilate: int, blur: float) -> np.ndarray:
    """How much of a pasted tumour's surroundings is taken from what was made, float64 in [0, 1], as large as the mask.

    The mask (H, W) or (D, H, W), bool and not empty, is dilated by a disk or ball of radius `dilate`, blurred by a
    Gaussian of `blur` pixels that ends at four of them, and scaled to 1 where it is largest: as SinGAN's authors do.
    """
    grown = scipy.ndimage.distance_transform_edt(~mask) <= dilate
    if not blur:
        return grown.astype(np.float64)
    soft = scipy.ndimage.gaussian_filter(grown.astype(np.float64), blur, mode="nearest", truncate=4.0)
    return soft / soft.max()


def blended(source: np.ndarray, made: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`made`, in intensities, by its weight over `source`, in the type of that; where it has none the very voxels."""
    mixed = as_type(source + weight * (made - source), source.dtype)
    return np.where(weight > 0, mixed, source)


def _extent(mask: np.ndarray) -> tuple[Corner, Corner]:
    """First voxel and one past the last of the box that a mask fills."""
    ends = []
    for axis in range(mask.ndim):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        ends.append((int(filled[0]), int(filled[-1]) + 1))
    (z0, z1), (y0, y1), (x0, x1) = ends
    return (z0, y0, x0), (z1, y1, x1)
