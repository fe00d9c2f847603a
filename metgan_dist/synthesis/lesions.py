"""Lesions of a tile one by one: how large and how bright, for comparing synthetic with real ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from metgan_dist.scores.lesions import components


@dataclass(frozen=True)
class Lesions:
    """Lesions of some tiles: number of each tile's, and of every lesion its pixels and mean intensity in [-1, 1]."""

    per_tile: np.ndarray
    sizes: np.ndarray
    intensities: np.ndarray

    @staticmethod
    def of(label: np.ndarray, image: np.ndarray | None) -> Lesions:
        """Of one tile: connected components of foreground of any class, diagonal neighbours included.

        label: integers ([D,] H, W); image: float of the same shape, None where there is none (intensities are NaN).
        """
        lesions, count = components(label > 0)
        sizes = np.bincount(lesions.ravel(), minlength=count + 1)[1:]
        means = np.full(count, np.nan) if image is None else ndimage.mean(image, lesions, np.arange(1, count + 1))
        return Lesions(np.array([count]), sizes, np.atleast_1d(means))

    @staticmethod
    def join(parts: list[Lesions]) -> Lesions:
        """Of all tiles together, in this order."""
        return Lesions(
            np.concatenate([part.per_tile for part in parts] or [np.zeros(0, int)]),
            np.concatenate([part.sizes for part in parts] or [np.zeros(0, int)]),
            np.concatenate([part.intensities for part in parts] or [np.zeros(0)]),
        )
