"""Where lesions may lie: in tissue, which is where the smoothed anatomy is bright enough."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from metgan_dist.scores.lesions import components

SMOOTHING = 2.0  # pixels; bridges the dark pixels that noise and thin vessels leave within tissue
MOSTLY = 0.5  # of a lesion's pixels must lie in tissue
TRIES = 24


@dataclass
class Placed:
    """A label after its lesions were checked: shifts of those that were moved, how many were removed."""

    label: np.ndarray
    moved: list[list[int]] = field(default_factory=list)
    removed: int = 0


def tissue_of(anatomy: np.ndarray, level: float) -> np.ndarray:
    """Mask ([D,] H, W) of tissue: `anatomy` in [-1, 1], smoothed over a few pixels, is above `level`."""
    return ndimage.gaussian_filter(anatomy.astype(np.float32), SMOOTHING) > level


def place(label: np.ndarray, tissue: np.ndarray, random: np.random.Generator) -> Placed:
    """Move each lesion that lies mostly outside `tissue` to a random place within it, or remove it.

    A lesion is a connected component of foreground of any class, diagonal neighbours included, so that classes within
    each other stay together. One that lies mostly in tissue stays as it is. A moved lesion keeps all of its pixels,
    lies mostly in tissue, and touches no other lesion; after TRIES places it is removed.
    """
    # Of any class at once: a core in its rim is one lesion and is moved as one.
    lesions, _ = components(label > 0)
    around = np.ones([3] * label.ndim, bool)
    placed = Placed(label.copy())
    astray = []
    for number, box in enumerate(ndimage.find_objects(lesions), start=1):
        shape = lesions[box] == number
        if tissue[box][shape].mean() < MOSTLY:
            astray.append((np.argwhere(shape) + [part.start for part in box], label[box][shape]))
            # All that go astray are lifted first, so that none stands in the way of another.
            placed.label[box][shape] = 0
    if not astray:
        return placed
    inside = np.flatnonzero(tissue)
    for pixels, values in astray:
        # A pixel wider, so that lesions do not grow together and count as one.
        taken = ndimage.binary_dilation(placed.label > 0, around)
        shift = _shift_into(pixels, tissue, inside, taken, random)
        if shift is None:
            placed.removed += 1
            continue
        placed.label[tuple((pixels + shift).T)] = values
        placed.moved.append([int(step) for step in shift])
    return placed


def _shift_into(
    pixels: np.ndarray, tissue: np.ndarray, inside: np.ndarray, taken: np.ndarray, random: np.random.Generator
) -> np.ndarray | None:
    """How far to move a lesion's `pixels` (N, axes) so that its middle comes to lie on a pixel of tissue."""
    if not len(inside):
        return None
    middle = (pixels.min(axis=0) + pixels.max(axis=0)) // 2
    # Drawn from the tissue itself: where tissue is rare, places in the whole tile would mostly miss it.
    for target in random.choice(inside, TRIES):
        shift = np.array(np.unravel_index(target, tissue.shape)) - middle
        there = pixels + shift
        if (there < 0).any() or (there >= tissue.shape).any():
            continue
        where = tuple(there.T)
        if tissue[where].mean() >= MOSTLY and not taken[where].any():
            return shift
    return None
