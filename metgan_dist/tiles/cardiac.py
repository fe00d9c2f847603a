"""Cardiac CT and MRI as paper 5 prepares them (section 5.1): 1.5 mm voxels, 86 x 112 x 112 around the heart's centre.

The paper leaves open, and we choose: the order of the axes (here z, y, x); the centre (the centre of mass of all
labelled voxels); what lies outside the scan (the crop's lowest value, air in CT); the CT window (-200 to 800 HU, which
keeps contrast-filled chambers, muscle and fat apart); MRI has no absolute scale and takes the recipe's percentiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from metgan_dist.tiles.cut import resample
from metgan_dist.volumes.volume import Region

SPACING = (1.5, 1.5, 1.5)
SHAPE = (86, 112, 112)
CT_WINDOW = (-200.0, 800.0)

Triplet = tuple[int, int, int]


def heart_centre(
    read_label: Callable[[Region], np.ndarray], parts: Iterable[Region]
) -> tuple[float, float, float] | None:
    """Centre of mass (z, y, x) of all labelled voxels, in source voxels from the corner; None without any.

    `parts` cover the volume, so that it is never held as a whole.
    """
    total, moments = 0, np.zeros(3)
    for part in parts:
        where = np.nonzero(read_label(part))
        total += len(where[0])
        moments += [float((axis + 0.5 + first).sum()) for axis, (first, _) in zip(where, part, strict=True)]
    if not total:
        return None
    z, y, x = (float(moment / total) for moment in moments)
    return z, y, x


def crop_region(
    centre: tuple[float, float, float], shape: Triplet, factors: tuple[float, float, float], crop: Triplet = SHAPE
) -> tuple[Region, Region]:
    """The crop around a centre: (region inside the volume, what is missing before and after), source voxels.

    `factors`: source voxels per target voxel along z, y, x; `crop`: target voxels.
    """
    regions, pads = [], []
    for at, length, factor, size in zip(centre, shape, factors, crop, strict=True):
        extent = max(1, round(size * factor))
        first = round(at - extent / 2)
        last = first + extent
        regions.append((max(0, first), min(length, last)))
        pads.append((max(0, -first), max(0, last - length)))
    return (regions[0], regions[1], regions[2]), (pads[0], pads[1], pads[2])


def preprocess(voxels: np.ndarray, pad: Region, *, is_label: bool, crop: Triplet = SHAPE) -> np.ndarray:
    """A crop at source resolution -> (86, 112, 112) at 1.5 mm: images float32 (HU for CT), labels in their dtype.

    Missing voxels become the lowest value of the crop, background in labels.
    """
    filled = np.pad(voxels, pad, constant_values=0 if is_label else voxels.min())
    return resample(filled, crop, is_label=is_label)
