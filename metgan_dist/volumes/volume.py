"""What every format presents: named channels over the canonical axes z, y, x, read by region."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from metgan_dist.errors import UserError

Range = tuple[int, int]
Region = tuple[Range, Range, Range]
"""((z0, z1), (y0, y1), (x0, x1)), half open, in voxels."""

# Factors to the two units that the package uses; every spelling that OME, ImageJ and NIfTI write.
_UNITS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(
        ("micrometer", "micrometre", "micron", "microns", "um", "µm", "μm", "\\u00b5m"), ("micrometer", 1.0)
    ),
    **dict.fromkeys(("nanometer", "nanometre", "nm"), ("micrometer", 1e-3)),
    **dict.fromkeys(("angstrom", "å"), ("micrometer", 1e-4)),
    **dict.fromkeys(("millimeter", "millimetre", "mm"), ("millimeter", 1.0)),
    **dict.fromkeys(("centimeter", "centimetre", "cm"), ("millimeter", 10.0)),
    **dict.fromkeys(("meter", "metre", "m"), ("millimeter", 1e3)),
}


@dataclass(frozen=True)
class Spacing:
    """Distance between voxel centres along z, y, x in `unit`: "micrometer", "millimeter" or "unknown"."""

    z: float
    y: float
    x: float
    unit: str


def spacing_of(sizes: Sequence[float], units: Sequence[str | None]) -> Spacing | None:
    """Spacing from three voxel sizes (z, y, x) and the units as a file spells them.

    Units that differ are brought to micrometres; a unit that is unknown for any axis makes the whole unit "unknown"
    and leaves the numbers alone. A size of 0 gives None: such a header says nothing. What else is wrong with the sizes
    is told by `Stated.spacing_or`, where nothing better is stated.
    """
    values = [float(size) for size in sizes]
    if 0 in values:
        return None
    known = [_UNITS.get((unit or "").strip().lower()) for unit in units]
    if any(entry is None for entry in known):
        return Spacing(values[0], values[1], values[2], "unknown")
    pairs = [entry for entry in known if entry is not None]
    names = {name for name, _ in pairs}
    scaled = [value * factor for value, (_, factor) in zip(values, pairs, strict=True)]
    if len(names) == 1:
        return Spacing(scaled[0], scaled[1], scaled[2], names.pop())
    to_micrometre = [1e3 if name == "millimeter" else 1.0 for name, _ in pairs]
    z, y, x = (value * factor for value, factor in zip(scaled, to_micrometre, strict=True))
    return Spacing(z, y, x, unit="micrometer")


@dataclass(frozen=True)
class Stated:
    """What the user states about a file, where it says nothing or wrongly: a stated value wins over the file's.

    axes: letters of the file's axes in file order ("zyx", "czyx", "tzcyx"); channels: names in file order;
    spacing: voxel size (z, y, x) in `unit`.
    """

    axes: str | None = None
    channels: tuple[str, ...] | None = None
    spacing: tuple[float, float, float] | None = None
    unit: str | None = None

    def spacing_or(self, uri: str, found: Spacing | None) -> Spacing | None:
        """The stated spacing and unit, or what the file says for whichever of the two is not stated.

        Raises UserError where the file's spacing is needed and is negative, infinite or NaN.
        """
        if self.spacing is not None:
            return Spacing(*self.spacing, unit=self.unit or (found.unit if found else "unknown"))
        if found is not None and not all(0 < size < np.inf for size in (found.z, found.y, found.x)):
            raise UserError(
                f"{uri}: voxel size (z, y, x) {found.z:g}, {found.y:g}, {found.x:g} in its header; correct it, or "
                "state `spacing` in the data set"
            )
        if self.unit is not None and found is not None:
            return Spacing(found.z, found.y, found.x, unit=self.unit)
        return found

    def channels_or(self, uri: str, found: Sequence[str] | None, count: int) -> tuple[str, ...]:
        """Names of `count` channels: stated, else the file's, else c0, c1, ...; UserError for a wrong number."""
        names = self.channels if self.channels is not None else tuple(found or ())
        if self.channels is None and (len(names) != count or not all(names)):
            return tuple(f"c{number}" for number in range(count))
        if len(names) != count:
            raise UserError(
                f"{uri}: has {count} channel(s), but {len(names)} are named ({', '.join(names)}); name each"
            )
        if len(set(names)) < count:
            raise UserError(f"{uri}: two channels have one name ({', '.join(names)}); name them in `channels`")
        return names


class Volume(ABC):
    """An opened volume: metadata at hand, voxels read by region.

    uri: where it is; source_axes: axes as in the file, e.g. "czyx"; shape: voxels (z, y, x); channels: names;
    dtype: native byte order; spacing: None where neither the file nor the user says; chunks: voxels (z, y, x) that the
    smallest read costs; affine: 4x4 from voxels (x, y, z) to the scanner's millimetres (NIfTI only);
    lies: towards which sides x, y, z of its file run, e.g. LPS (NIfTI only);
    palette: whether pixels are numbers of colours, which only a label can be;
    names, table: for folders of separate images, file names in z order and their organs and patients, else None;
    computed: whether it lies in no file, but is made of another volume.
    """

    uri: str
    source_axes: str
    shape: tuple[int, int, int]
    channels: tuple[str, ...]
    dtype: np.dtype
    spacing: Spacing | None
    chunks: tuple[int, int, int]
    affine: np.ndarray | None = None
    lies: str | None = None
    palette: bool = False
    computed: bool = False
    cheap_bytes = 2**26  # of a channel that is read as a whole, to look at it before the work
    names: tuple[str, ...] | None = None
    table: pd.DataFrame | None = None

    def read(self, channel: str, region: Region) -> np.ndarray:
        """Voxels of one channel in a region: array (z, y, x), values and dtype of the file, native byte order.

        Raises UserError for an unknown channel, DamagedFile where the file cannot be read, ValueError for a region that
        is empty or reaches outside the volume (a mistake of the caller, not of the user).
        """
        number = self.channel_number(channel)
        check_region(region, self.shape, self.uri)
        return native(self._read(number, region))

    def channel_number(self, channel: str) -> int:
        """Position of a channel in the file; UserError that lists the channels where there is none of that name."""
        if channel not in self.channels:
            raise UserError(f"{self.uri}: no channel '{channel}'; its channels: {', '.join(self.channels)}")
        return self.channels.index(channel)

    def dtype_of(self, channel: str) -> np.dtype:
        """dtype of one channel (files that were put together may differ)."""
        self.channel_number(channel)
        return self.dtype

    def palette_of(self, channel: str) -> bool:
        """Whether the pixels of one channel are numbers of colours (channels that were put together may differ)."""
        self.channel_number(channel)
        return self.palette

    def uri_of(self, channel: str) -> str:
        """The file or folder that holds one channel (volumes that were put together have several)."""
        self.channel_number(channel)
        return self.uri

    def overview(self) -> Volume | None:
        """What shows the volume at little cost: itself where it is small, a coarser copy of it, or None."""
        z, y, x = self.shape
        return self if z * y * x * self.dtype.itemsize <= self.cheap_bytes else None

    @abstractmethod
    def _read(self, channel: int, region: Region) -> np.ndarray:
        """Voxels (z, y, x) of a channel by its number; the region has been checked."""


def native(array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order, contiguous; no copy where it is both already."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def check_region(region: Region, shape: Sequence[int], uri: str) -> None:
    """ValueError for a region that is empty or not inside a volume of this shape."""
    if len(region) != 3 or any(not 0 <= a < b <= size for (a, b), size in zip(region, shape, strict=True)):
        raise ValueError(f"{uri}: region {region} is empty or outside the volume of {tuple(shape)} voxels (z, y, x)")


class Shaped(Protocol):
    """Whatever has voxels (z, y, x): a volume, also with its label."""

    shape: tuple[int, int, int]


def whole(volume: Shaped) -> Region:
    """The region that is the whole volume; for small volumes only."""
    z, y, x = volume.shape
    return (0, z), (0, y), (0, x)


def region_text(region: Region) -> str:
    """A region as messages name it: `z 0:8, y 0:64, x 0:64`."""
    return ", ".join(f"{axis} {start}:{stop}" for axis, (start, stop) in zip("zyx", region, strict=True))
