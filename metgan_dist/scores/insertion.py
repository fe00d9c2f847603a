"""Tumours that were put into volumes: their borders, how slices follow each other, intensities, and the background.

A step is the absolute difference of two neighbouring voxels. Where both lie in the tumour it is one of its texture,
where both lie in the tissue around it one of that tissue's, and where the mask's border runs between them one of the
border: a paste that was cut out shows there. Along the axis of the slices, steps tell whether slices that were made
one by one fit together. Nothing here needs published weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy  # loads a part of itself when that is first used

# Tissue around a tumour, to which it is compared: pixels of its plane outside the mask.
NEAR = 5
# Contrast, in standard deviations, below which a tumour is counted as lost: Cohen's "medium" effect, at which two
# normal distributions still overlap by four fifths.
LOST = 0.5
PLANES, ALONG = (1, 2), 0


def border_scores(image: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Steps of an image about a tumour, and what they are against those of what is around.

    - ``border_step``, ``inside_step``, ``outside_step``: mean step in the planes across the border, within the tumour,
      within the tissue around it.
    - ``border_ratio``: the first by the mean of all of the others: 1 for a border that does not show.
    - ``seam_step``, ``seam_outside_step``: mean step between slices within the tumour and within the tissue around it.
    - ``seam_ratio``: the former by the latter: 1 for slices that follow each other as those of the volume do.

    NaN where no two neighbours are of a kind, or what is divided by is 0.

    Args:
        image: (slices, H, W), in whatever unit the steps shall have.
        mask: bool, as large.
    """
    image, around = image.astype(np.float64), surroundings(mask)
    border, inside, outside = _steps(image, mask, around, axes=PLANES)
    _, seam, seam_outside = _steps(image, mask, around, axes=(ALONG,))
    return {
        "border_step": _mean(border),
        "inside_step": _mean(inside),
        "outside_step": _mean(outside),
        "border_ratio": _ratio(_mean(border), _mean(np.concatenate([inside, outside]))),
        "seam_step": _mean(seam),
        "seam_outside_step": _mean(seam_outside),
        "seam_ratio": _ratio(_mean(seam), _mean(seam_outside)),
    }


def surroundings(mask: np.ndarray) -> np.ndarray:
    """Voxels outside a mask (slices, H, W) within `NEAR` pixels of it in their slice; bool, as large."""
    around = np.zeros_like(mask)
    for plane in np.flatnonzero(mask.any(axis=(1, 2))):
        around[plane] = scipy.ndimage.distance_transform_edt(~mask[plane]) <= NEAR
    return around & ~mask


def contrast(image: np.ndarray, mask: np.ndarray) -> float:
    """How far a tumour stands out: its mean less that of the tissue around it, in their pooled standard deviation.

    Cohen's d, positive for a bright tumour; either weighs as many as it has voxels. NaN where the tissue around is
    missing or nothing varies.

    Args:
        image: (slices, H, W), in any unit.
        mask: bool, as large, not empty.
    """
    inside, outside = image[mask].astype(np.float64), image[surroundings(mask)].astype(np.float64)
    if not len(outside):
        return float("nan")
    spread = np.sqrt((len(inside) * inside.var() + len(outside) * outside.var()) / (len(inside) + len(outside)))
    return _ratio(float(inside.mean() - outside.mean()), float(spread))


def lost(contrasts: np.ndarray) -> int:
    """How many tumours hardly differ from the tissue around them, bright or dark; NaN is none."""
    return int((np.abs(contrasts) < LOST).sum())


def background_difference(made: np.ndarray, source: np.ndarray, touched: np.ndarray) -> float:
    """The largest absolute difference of two images where nothing was to be touched; 0 where they are the same.

    made, source: of one shape, whose last axes are those of touched, bool.
    """
    apart = np.abs(made.astype(np.float64) - source)
    return float(np.where(touched, 0.0, apart).max())


def intensity_distance(inserted: np.ndarray, real: np.ndarray) -> float:
    """Wasserstein's distance between intensities of inserted tumours and of real ones, one-dimensional each."""
    return float(scipy.stats.wasserstein_distance(inserted, real))


def _steps(
    image: np.ndarray, mask: np.ndarray, around: np.ndarray, axes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(across the border, within the mask, within what is around) of all pairs of neighbours along some axes."""
    found: list[list[np.ndarray]] = [[], [], []]
    for axis in axes:
        (one, other), (mine, next_), (near, far) = (_pairs(own, axis) for own in (image, mask, around))
        step = np.abs(one - other)
        for kind, where in zip(found, (mine != next_, mine & next_, near & far), strict=True):
            kind.append(step[where])
    border, inside, outside = (np.concatenate(kind) for kind in found)
    return border, inside, outside


def _pairs(voxels: np.ndarray, axis: int) -> Iterator[np.ndarray]:
    """All voxels but the last along an axis, and their neighbours."""
    length = voxels.shape[axis]
    yield from (np.take(voxels, range(*ends), axis) for ends in ((0, length - 1), (1, length)))


def _mean(steps: np.ndarray) -> float:
    return float(steps.mean()) if len(steps) else float("nan")


def _ratio(one: float, other: float) -> float:
    return one / other if other else float("nan")
