"""One pass over all voxels of a channel or a label, piece by piece: what adds up, however they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from metgan_dist.tiles.blocks import pieces
from metgan_dist.volumes.volume import Region, Volume

PIECE_BYTES = 64 * 2**20
# More values than any label has; what has more is an image.
MOST_VALUES = 1000
# Odd numbers of 64 bits that scatter a voxel's place and value over all bits (those of the splitmix64 generator).
_PLACE, _FIRST, _SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass
class Intensities:
    """Of one channel: voxels, the finite ones' range, how many have the largest value, how many are not finite.

    digest: of values and places, the same in whatever order and type the voxels come; planes counts from the first of
    the region, so that separate images that are equal have one digest.
    """

    voxels: int = 0
    minimum: float = np.inf
    maximum: float = -np.inf
    at_maximum: int = 0
    not_finite: int = 0
    digest: int = 0

    def add(self, plane: np.ndarray, places: np.ndarray) -> None:
        """A part (y, x) of a plane; `places`: uint64 numbers of its voxels."""
        values = plane.astype(np.float64)
        self.digest = (self.digest + _scattered(values, places)) % 2**64
        self.voxels += values.size
        finite = values[np.isfinite(values)]
        self.not_finite += values.size - finite.size
        if not finite.size:
            return
        top = float(finite.max())
        self.minimum = min(self.minimum, float(finite.min()))
        if top >= self.maximum:
            kept = self.at_maximum if top == self.maximum else 0
            self.maximum, self.at_maximum = top, kept + int((finite == top).sum())

    @property
    def constant(self) -> bool:
        """Whether all voxels have one value; false where none is finite."""
        return self.minimum == self.maximum

    @property
    def clipped(self) -> float:
        """Fraction of the voxels that have the largest value."""
        return self.at_maximum / max(1, self.voxels)


@dataclass
class LabelValues:
    """Of a label: how many voxels have which value, and in which plane each was seen first; `full` where there were
    more values than a label has, and the rest was not counted."""

    counts: dict[float, int] = field(default_factory=dict)
    first: dict[float, int] = field(default_factory=dict)
    full: bool = False

    def add(self, plane: np.ndarray, number: int) -> None:
        """A part (y, x) of the plane of this number."""
        for value, count in zip(*(part.tolist() for part in np.unique(plane, return_counts=True)), strict=True):
            if value not in self.counts and len(self.counts) >= MOST_VALUES:
                self.full = True
                continue
            self.counts[value] = self.counts.get(value, 0) + count
            self.first.setdefault(value, number)


def intensities(volume: Volume, channel: str, region: Region) -> Intensities:
    """Of the voxels of a region; DamagedFile where the file cannot be read to its end."""
    measured = Intensities()
    (start, _), _, _ = region
    _, y, x = volume.shape
    rows, columns = np.arange(y, dtype=np.uint64)[:, None], np.arange(x, dtype=np.uint64)
    for z, (down, across), plane in _planes(volume, channel, region):
        first = np.uint64((z - start) * y * x)
        measured.add(plane, first + rows[down] * np.uint64(x) + columns[across])
    return measured


def label_values(volume: Volume, channel: str, region: Region) -> LabelValues:
    """Of the voxels of a region, as the file has them; DamagedFile where it cannot be read to its end."""
    values = LabelValues()
    for z, _, plane in _planes(volume, channel, region):
        values.add(plane, z)
    return values


def _planes(volume: Volume, channel: str, region: Region) -> Iterator[tuple[int, tuple[slice, slice], np.ndarray]]:
    """Number, place and voxels of parts of planes; no more than a piece (or a chunk) is held."""
    size = volume.dtype_of(channel).itemsize
    for piece in pieces(region, volume.chunks, size, PIECE_BYTES):
        (first, _), down, across = piece
        for number, plane in enumerate(volume.read(channel, piece)):
            yield first + number, (slice(*down), slice(*across)), plane


def _scattered(values: np.ndarray, places: np.ndarray) -> int:
    """A sum over voxels in which each depends on its value and its place, modulo 2**64."""
    bits = (values + 0.0).view(np.uint64) ^ (places * _PLACE)  # -0 is 0
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return int((bits ^ (bits >> np.uint64(31))).sum(dtype=np.uint64))
