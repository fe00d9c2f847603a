"""Whether drawn lesion masks are like real ones, as a set, and whether they are copies of those that were learned from.

Of each mask is noted (`mask_measures`), in voxels of its grid:

    voxels       of any class but background: its volume
    components   connected parts, touching at a face, an edge or a corner
    sphericity   of the largest part: surface of the ball of its volume / its own surface (Wadell 1935), both of the
                 mesh halfway between its voxels and others, in the proportions of the voxels; 1 for a ball. In 2D
                 circularity, the same with perimeters
    z, y, x      its centre of mass
    spread_*     standard deviation of its voxels along each axis
    nearest      Dice with the training mask that is nearest to it (`TrainingMasks`)

Two sets of masks are compared (`compare_masks`) by the distributions of volume, components, sphericity and place: their
Wasserstein distance, and Kolmogorov's and Smirnov's test of two samples (asymptotic), of place the mean distance over
the axes and the lowest p after Holm's correction for them; `mask_distance` is the mean of the four distances, each in
standard deviations of the real masks. Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et
al. 2020) are taken over all measures but `nearest`, in standard deviations of the real masks, the volume and the number
of parts by their logarithms, with balls that reach to the fifth neighbour.

A mask without a voxel has a volume and no shape nor place: it counts as one that resembles nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy  # loads a part of itself when that is first used
import skimage  # likewise

from metgan_dist.scores.lesions import components
from metgan_dist.scores.significance import holm

AXES = ("z", "y", "x")
NEIGHBOURS = 5
COPIED = 0.95  # of the held-out masks lie less near to the training masks than what is called a copy


def mask_measures(mask: np.ndarray, spacing: Sequence[float] | None = None) -> dict[str, float]:
    """The measures of one mask (D, H, W) or (H, W), zero outside; see above, without `nearest`.

    spacing: size of a voxel along each axis; None: as long as wide. Measures that an empty mask has not are NaN.
    """
    axes = AXES[-mask.ndim :]
    numbered, count = components(mask > 0)
    sizes = np.bincount(numbered.ravel())[1:]
    found = {"voxels": float(sizes.sum()), "components": float(count)}
    if not count:
        shape = ("sphericity", *axes, *(f"spread_{axis}" for axis in axes))
        return found | dict.fromkeys(shape, math.nan)
    places = np.argwhere(numbered > 0)
    largest = numbered == sizes.argmax() + 1
    return {
        **found,
        "sphericity": sphericity(largest, spacing or (1.0,) * mask.ndim),
        **dict(zip(axes, places.mean(axis=0).tolist(), strict=True)),
        **dict(zip((f"spread_{axis}" for axis in axes), places.std(axis=0).tolist(), strict=True)),
    }


def sphericity(part: np.ndarray, spacing: Sequence[float]) -> float:
    """Of a connected part, bool (D, H, W), or circularity of one (H, W): above 0, at most 1.

    Of the mesh (the outline) halfway between voxels, whose volume is its own too: that of the voxels would make small
    parts rounder than balls. Holes count as surface.
    """
    inside = np.argwhere(part)
    box = tuple(slice(low, high + 1) for low, high in zip(inside.min(axis=0), inside.max(axis=0), strict=True))
    padded = np.pad(part[box], 1).astype(np.float32)
    if part.ndim == 2:
        outlines = [outline * spacing for outline in skimage.measure.find_contours(padded, 0.5)]
        length = sum(float(np.linalg.norm(np.diff(outline, axis=0), axis=1).sum()) for outline in outlines)
        # Holes are run round the other way, so that their areas are taken off.
        area = abs(sum(_area(outline) for outline in outlines))
        return 2 * math.sqrt(math.pi * area) / length
    corners, faces, *_ = skimage.measure.marching_cubes(padded, 0.5, spacing=tuple(spacing))
    a, b, c = (corners[faces[:, k]] for k in range(3))
    volume = abs(float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum()) / 6)
    surface = float(skimage.measure.mesh_surface_area(corners, faces))
    return math.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / surface


def _area(outline: np.ndarray) -> float:
    """Area within a closed outline (points, 2), signed by the way it is run round."""
    (a, b), (c, d) = outline[:-1].T, outline[1:].T
    return float((a * d - b * c).sum() / 2)


class TrainingMasks:
    """The masks that a generator learned from, kept as lists of their voxels."""

    def __init__(self, masks: Sequence[np.ndarray] | None = None) -> None:
        self._rows: list[np.ndarray] = []
        self._table: scipy.sparse.csr_matrix | None = None
        self._voxels = 0
        for mask in masks or ():
            self.add(mask)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, mask: np.ndarray) -> None:
        """One more mask, zero outside; all are of one shape."""
        self._rows.append(np.flatnonzero(mask).astype(np.int32))
        self._voxels, self._table = mask.size, None

    def nearest(self, mask: np.ndarray) -> tuple[float, int]:
        """The highest Dice of a mask with one of them, and its number, the first of several.

        (0, -1) where the mask is empty or meets none.
        """
        own = np.flatnonzero(mask)
        if not len(own) or not self._rows:
            return 0.0, -1
        inside = np.zeros(self._voxels, np.int32)
        inside[own] = 1
        sizes = np.array([len(row) for row in self._rows])
        dice = 2 * (self._as_table() @ inside) / (sizes + len(own))
        best = int(dice.argmax())
        return (float(dice[best]), best) if dice[best] else (0.0, -1)

    def _as_table(self) -> scipy.sparse.csr_matrix:
        """A row a mask, 1 where it has a voxel."""
        if self._table is None:
            ends = np.cumsum([0, *(len(row) for row in self._rows)])
            filled = np.ones(ends[-1], np.int32)
            parts = (filled, np.concatenate(self._rows), ends)
            self._table = scipy.sparse.csr_matrix(parts, shape=(len(self._rows), self._voxels))
        return self._table


def compare_masks(drawn: pd.DataFrame, real: pd.DataFrame) -> dict[str, float]:
    """How a set of drawn masks differs from real ones; either a row a mask, with the columns of the measures.

    Returns `volume_distance`, `volume_p` and so on for components, sphericity and place, `mask_distance`, `precision`,
    `recall`, `density`, `coverage`; `empty`, the share of drawn masks without a voxel; and of copying `nearest`, the
    mean Dice of the drawn masks with the nearest training mask, `nearest_p`, how sure it is that they lie nearer to
    these than held-out masks do (Mann and Whitney, one-sided), and `copies`, the share of them that lie nearer than
    95 % of the held-out masks: 0.05 where nothing is copied. What needs two masks that hold something on either side is
    left out where there are none.
    """
    found = {"empty": float((drawn["voxels"] == 0).mean()), "nearest": float(drawn["nearest"].mean())}
    solid, real_solid = drawn[drawn["voxels"] > 0], real[real["voxels"] > 0]
    if min(len(solid), len(real_solid)) < 2:
        return found
    found |= _distributions(solid, real_solid)
    found |= _neighbourhoods(solid, real_solid, len(drawn))
    border = float(np.quantile(real["nearest"], COPIED))
    test = scipy.stats.mannwhitneyu(drawn["nearest"], real["nearest"], alternative="greater")
    return found | {"nearest_p": float(test.pvalue), "copies": float((drawn["nearest"] > border).mean())}


def _distributions(drawn: pd.DataFrame, real: pd.DataFrame) -> dict[str, float]:
    """Distances and tests of the four distributions, and the mean of the four."""
    groups: dict[str, tuple[str, ...]] = {
        "volume": ("voxels",),
        "components": ("components",),
        "sphericity": ("sphericity",),
    }
    groups["place"] = tuple(axis for axis in AXES if axis in real)
    found: dict[str, float] = {}
    scaled = []
    for name, measures in groups.items():
        distance = [float(scipy.stats.wasserstein_distance(drawn[one], real[one])) for one in measures]
        p = np.array([scipy.stats.ks_2samp(drawn[one], real[one], method="asymp").pvalue for one in measures])
        found |= {f"{name}_distance": float(np.mean(distance)), f"{name}_p": float(holm(p).min())}
        scaled.append(np.mean([own / _deviation(real[one]) for own, one in zip(distance, measures, strict=True)]))
    return {"mask_distance": float(np.mean(scaled)), **found}


def _deviation(values: pd.Series) -> float:
    """Standard deviation; 1 of what does not vary, whose distances so stay what they are."""
    return float(values.std(ddof=0)) or 1.0


def _neighbourhoods(drawn: pd.DataFrame, real: pd.DataFrame, count: int) -> dict[str, float]:
    """Precision, recall, density and coverage; `count`: drawn masks, those that hold nothing among them."""
    features = [_features(table) for table in (drawn, real)]
    scale = np.array([_deviation(pd.Series(column)) for column in features[1].T])
    mine, theirs = (table / scale for table in features)
    k = min(NEIGHBOURS, len(mine) - 1, len(theirs) - 1)
    radius, own_radius = _reach(theirs, k), _reach(mine, k)
    apart = scipy.spatial.distance.cdist(theirs, mine)
    inside = apart < radius[:, None]
    return {
        "precision": float(inside.any(axis=0).sum() / count),
        "recall": float((apart < own_radius).any(axis=1).mean()),
        "density": float(inside.sum() / (k * count)),
        "coverage": float((apart.min(axis=1) < radius).mean()),
    }


def _features(table: pd.DataFrame) -> np.ndarray:
    """(masks, features): all measures of shape and place, sizes by their logarithms."""
    sizes = ["voxels", "components"]
    others = [name for name in table if name in ("sphericity", *AXES) or str(name).startswith("spread_")]
    return np.column_stack([np.log(table[sizes]), table[others]])


def _reach(points: np.ndarray, k: int) -> np.ndarray:
    """Distance of each point to its k-th neighbour."""
    apart = scipy.spatial.distance.cdist(points, points)
    return np.asarray(np.sort(apart, axis=1)[:, k])
