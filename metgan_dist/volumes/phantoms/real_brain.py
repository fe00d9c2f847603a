"""Maps of real tissues and masks of real lesions, brought into the brains of phantoms.

A map is turned a little, grown or shrunk, mirrored and bent for every patient. A mask in standard (MNI) space is laid
into a brain by the extents of both along the three axes: a rough registration, of which what lies in tissue is kept.
"""

from __future__ import annotations

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from metgan_dist.errors import UserError
from metgan_dist.recipe import FREESURFER
from metgan_dist.storage import Options
from metgan_dist.volumes.label_map import integers
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.phantoms.dwi_signal import NUMBER, extent
from metgan_dist.volumes.phantoms.field import Axes, Floats, random_generator, smooth_noise
from metgan_dist.volumes.volume import Region, whole

# Cerebrum and cerebellum of the MNI152 average, millimetres (z, y, x) towards head, front, right.
STANDARD = ((-64.0, -106.0, -71.0), (80.0, 74.0, 71.0))
TURN, GROWTH, SHIFT = 5.0, 0.06, 4.0  # degrees about each axis; share; millimetres
BEND, WIDTH_OF_BENDS = 2.5, 55.0  # standard deviation and width, millimetres
_OUTSIDE = ("background", "CSF", "brain-stem")  # left out of a brain's extent, for they end where an image ends


class TissueMap:
    """A map of tissues in FreeSurfer's numbers: uint8 numbers of `TISSUES` (z, y, x), its voxel size in millimetres.

    Raises UserError for a file that is no such map, or does not say how it lies.
    """

    def __init__(self, path: str, options: Options | None = None) -> None:
        values, affine = _read(path, options)
        table = np.zeros(max(FREESURFER) + 2, np.uint8)
        for value, name in FREESURFER.items():
            table[value] = NUMBER[name]
        tissue = table[np.where((values >= 0) & (values <= max(FREESURFER)), values, max(FREESURFER) + 1)]
        if not (tissue == NUMBER["white matter"]).any():
            raise UserError(
                f"{path}: no voxel has a number of FreeSurfer's white matter (2, 41); data.phantom.tissue_maps takes "
                "maps in its numbers"
            )
        box = _box(tissue > 0)
        self.tissue, self.spacing = tissue[box], tuple(float(size) for size in voxel_sizes(affine)[::-1])
        # Some maps reach far down the spinal cord: the middle is that of the brain.
        brain = _box(_inner(self.tissue))
        self._middle = [(span.start + span.stop - 1) / 2 for span in brain]

    def bent(self, axes: Axes, seed: int) -> NDArray[np.uint8]:
        """The tissues (z, y, x) on a grid (mm), its middle about that of the brain: another brain for each seed."""
        random = random_generator(seed, 41)
        turn = _rotation(np.deg2rad(random.uniform(-TURN, TURN, 3))) / random.uniform(1 - GROWTH, 1 + GROWTH)
        middle = [(axis[0] + axis[-1]) / 2 + random.uniform(-SHIFT, SHIFT) for axis in axes]
        at = [axis.astype(np.float32) - np.float32(centre) for axis, centre in zip(axes, middle, strict=True)]
        z, y, x = at[0][:, None, None], at[1][None, :, None], at[2][None, None, :]
        mirrored = random.random() < 0.5
        voxels, inside = [], np.ones([len(axis) for axis in axes], np.bool_)
        sizes = zip(turn, self.tissue.shape, self.spacing, self._middle, strict=True)
        for number, (row, length, size, centre) in enumerate(sizes):
            place: Floats = np.float32(row[0]) * z + np.float32(row[1]) * y + np.float32(row[2]) * x
            place = place + np.float32(BEND) * smooth_noise(seed * 16 + 11 + number, axes, WIDTH_OF_BENDS)
            if number == 2 and mirrored:
                place = -place
            voxel = np.rint(place / np.float32(size) + np.float32(centre)).astype(np.int32)
            inside &= (voxel >= 0) & (voxel < length)
            voxels.append(voxel.clip(0, length - 1))
        return np.where(inside, self.tissue[voxels[0], voxels[1], voxels[2]], np.uint8(0))


class LesionMask:
    """A mask of a lesion in standard space; UserError for a file that is none, or does not say how it lies."""

    def __init__(self, path: str, options: Options | None = None) -> None:
        values, self._affine = _read(path, options)
        self._mask = values > 0
        if not self._mask.any():
            raise UserError(f"{path}: an empty mask; take it out of data.phantom.lesion_masks")

    def laid_into(self, tissue: NDArray[np.uint8], axes: Axes, *, mirrored: bool) -> NDArray[np.bool_]:
        """Where the lesion is in a brain (z, y, x) on a grid (mm), whatever is there; perhaps on its other side."""
        low, high = extent(_inner(tissue), axes)
        indices, inside = [], []
        for axis, length in enumerate(self._mask.shape):
            share = (axes[axis] - low[axis]) / max(high[axis] - low[axis], 1)
            share = 1 - share if axis == 2 and mirrored else share
            place = STANDARD[0][axis] + share * (STANDARD[1][axis] - STANDARD[0][axis])
            # Axes of the file run towards right, front and head: its affine has a voxel size and an origin.
            size, first = self._affine[2 - axis, 2 - axis], self._affine[2 - axis, 3]
            voxel = np.rint((place - first) / size).astype(int)
            inside.append((voxel >= 0) & (voxel < length))
            indices.append(voxel.clip(0, length - 1))
        z, y, x = inside
        return self._mask[np.ix_(*indices)] & z[:, None, None] & y[None, :, None] & x[None, None, :]


def _read(path: str, options: Options | None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Values (z, y, x) of a file whose axes are turned towards right, front and head, and its affine."""
    volume = open_volume(path, options=options, orientation="RAS")
    region: Region = whole(volume)
    assert volume.affine is not None  # it could be turned
    return integers(volume.read(volume.channels[0], region), path, region), volume.affine


def _inner(tissue: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Cerebrum and cerebellum."""
    return ~np.isin(tissue, [NUMBER[name] for name in _OUTSIDE])


def _box(inside: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The box around what is inside."""
    spans = []
    for axis in range(3):
        there = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        spans.append(slice(int(there[0]), int(there[-1]) + 1))
    return tuple(spans)


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """The turn (3, 3) by three angles about z, y and x, one after the other."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        one, other = (number for number in range(3) if number != axis)
        step = np.eye(3)
        step[one, one] = step[other, other] = np.cos(angle)
        step[one, other], step[other, one] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn
