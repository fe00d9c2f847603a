"""NIfTI-1 (.nii, .nii.gz), three or four axes, read by region through nibabel."""

from __future__ import annotations

import gzip
import math
import zlib
from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.storage import Options, local_copy, one_line
from metgan_dist.volumes.axes import canonical_axes
from metgan_dist.volumes.orientation import sides
from metgan_dist.volumes.volume import Region, Stated, Volume, spacing_of

SUFFIXES = (".nii", ".nii.gz")

_DAMAGE = (
    *(OSError, EOFError, ValueError, OverflowError, zlib.error),
    *(ImageFileError, HeaderDataError, WrapStructError),
)
_PIECE = 2**20  # bytes


class Nifti(Volume):
    """A NIfTI file; its axes x, y, z become z, y, x as they lie (see `orientation`), and a fourth axis is channels.

    The voxel values are the stored ones, unless the header scales them (scl_slope, scl_inter): then they are floats,
    of 32 bits where these hold the stored type. A plain .nii is read where the region lies; a .nii.gz must be
    unpacked from its start up to the region at each read, so its `chunks` are the whole volume. Before the first read
    in a process it is unpacked to its end, where its checksum is. Files in object storage are copied to the local cache
    first (`storage.local_copy`).
    `affine` is the header's 4x4, from voxels (x, y, z) of the file; one that places no voxel is a UserError.
    The voxel size is the one that the header states, even where the affine has another: scans of ACDC have an affine of
    1 mm beside their true size.
    """

    cheap_bytes = 2**29  # unpacked as a whole at each read in any case

    def __init__(self, uri: str, stated: Stated | None = None, *, options: Options | None = None) -> None:
        stated = stated or Stated()
        self.uri = uri
        self._path = path = local_copy(uri, options)
        try:
            image = nibabel.load(path)
        except _DAMAGE as error:
            what = "the file is empty" if path.stat().st_size == 0 else f"no readable NIfTI: {one_line(error)}"
            raise DamagedFile(f"{uri}: {what}; copy it again or remove it from the data set") from error
        if not isinstance(image, nibabel.Nifti1Pair):
            raise UserError(f"{uri}: {type(image).__name__}, not NIfTI; convert it to .nii.gz")
        # A proxy that reads what is sliced; `get_fdata` would load the whole file as float64.
        self._data = image.dataobj
        # A vector-valued file has the shape x, y, z, 1, c.
        letters = {2: "xy", 3: "xyz", 4: "xyzc", 5: "xyztc"}.get(len(image.shape), "?")
        self._axes = canonical_axes(uri, stated.axes or letters, image.shape)
        self.source_axes, self.shape = self._axes.source, self._axes.shape
        self.channels = stated.channels_or(uri, None, self._axes.channels)
        stored = image.get_data_dtype()
        if stored.kind not in "biuf":
            raise UserError(f"{uri}: voxels of type {stored}; integers or floats are needed")
        if not path.name.endswith(".gz"):
            self._check_long_enough(path.stat().st_size)
        # An unscaled file keeps its integers: labels must not become floats.
        scaled = (self._data.slope, self._data.inter) != (1.0, 0.0)
        self.dtype = np.dtype(np.result_type(stored, np.float32) if scaled else stored).newbyteorder("=")
        z, y, x = self.shape
        self.chunks = (z, y, x) if path.name.endswith(".gz") else (1, y, x)
        self.affine = image.affine
        if not np.isfinite(self.affine).all() or np.linalg.matrix_rank(self.affine) < 4:
            raise UserError(
                f"{uri}: the affine in its header places no voxel (NaN, infinite or flat); correct the header"
            )
        self.lies = sides(self.affine)
        unit = image.header.get_xyzt_units()[0]
        zooms = (*(float(zoom) for zoom in image.header.get_zooms()[:3]), 1.0)
        self.spacing = stated.spacing_or(uri, spacing_of((zooms[2], zooms[1], zooms[0]), [unit] * 3))

    def _read(self, channel: int, region: Region) -> np.ndarray:
        try:
            if self._path.name.endswith(".gz"):
                state = self._path.stat()
                self._check_long_enough(_unpacked(self._path, state.st_size, state.st_mtime_ns))
            array = np.asarray(self._data[self._axes.index(channel, region)])
        except _DAMAGE as error:
            raise DamagedFile(f"{self.uri}: cannot be read: {one_line(error)}; copy it again") from error
        return self._axes.canonical(array).astype(self.dtype, copy=False)

    def _check_long_enough(self, size: int) -> None:
        """DamagedFile for fewer bytes than the header says; before memory for as many is asked for."""
        needed = self._data.offset + math.prod(self._data.shape) * self._data.dtype.itemsize
        if size < needed:
            raise DamagedFile(f"{self.uri}: truncated: its header says {needed} bytes, there are {size}; copy it again")


# A memo, not state: the same file, by path, size and time, has the same content.
@lru_cache(maxsize=4096)
def _unpacked(path: Path, size: int, time: int) -> int:
    """Bytes of a file unpacked to its end, where gzip compares the checksum; nibabel stops at the last needed voxel."""
    length = 0
    with gzip.open(path) as content:
        while piece := content.read(_PIECE):
            length += len(piece)
    return length
