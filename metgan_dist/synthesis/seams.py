"""Whether the borders of tiles show in a volume that was written tile by tile.

The score is the mean absolute difference of neighbouring voxels that a tile border separates, over the mean of those
that none separates, along rows and along columns. 1: a border is as smooth as the inside of a tile; a jump gives more.

What makes it fair:

- A border is where a tile begins or ends, whatever the blending does there, so blending cannot move the borders out of
  sight. Every border inside the volume counts.
- Each axis is compared with itself: tissue may be coarser along one axis than along the other.
- The inside is taken OFF to NEAR voxels away from a border, in the same rows and planes. Tissue fills the middle of a
  volume and background its rim, so the mean over all of the inside would depend on where the borders happen to fall;
  and what lies closer may be part of a blurred seam.
- It is a ratio of means, not a mean of ratios: flat background adds nothing to either side.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metgan_dist.storage import Options
from metgan_dist.volumes.ome_zarr_writer import open_level, where
from metgan_dist.volumes.volume import Range, Region

OFF, NEAR = 4, 12
RATIOS = ("ratio_planes", "ratio_rows", "ratio_columns")
"""Scores of the axes z, y, x; of 2D tiles, which have no borders along z, the last two."""


@dataclass(frozen=True)
class SeamSums:
    """Sums and counts of absolute differences: float64 (axes; across a border, inside a tile). They add up.

    The axes are y and x, or z, y and x.
    """

    sums: np.ndarray
    counts: np.ndarray

    @staticmethod
    def none(axes: int = 2) -> SeamSums:
        """Of nothing."""
        return SeamSums(np.zeros((axes, 2)), np.zeros((axes, 2)))

    def __add__(self, other: SeamSums) -> SeamSums:
        return SeamSums(self.sums + other.sums, self.counts + other.counts)

    def scores(self) -> dict[str, Any]:
        """`ratio` of all axes together, each weighted by its borders; of each alone; the mean differences.

        A ratio is None where there is no border, and infinite for borders in a volume that is flat inside its tiles.
        """
        means = self.sums / np.maximum(self.counts, 1)
        # What the borders would sum to, were they as smooth as the inside along their own axis.
        expected = float((self.counts[:, 0] * means[:, 1]).sum())
        across, inside = self.sums[:, 0].sum(), self.sums[:, 1].sum()
        counted = self.counts.sum(axis=0)
        of_axes = zip(RATIOS[-len(means) :], means, self.counts, strict=True)
        return {
            "ratio": _ratio(float(across), expected, int(counted[0])),
            **{name: _ratio(float(mean[0]), float(mean[1]), int(count[0])) for name, mean, count in of_axes},
            "across": float(across / max(counted[0], 1)),
            "inside": float(inside / max(counted[1], 1)),
        }


@dataclass(frozen=True)
class SeamJob:
    """A region (z, y, x) of the finest level of an OME-Zarr, to be measured; `borders` as `seam_sums` takes them."""

    uri: str
    region: Region
    borders: tuple[np.ndarray, ...]
    options: Options


def measure_seams(job: SeamJob) -> list[SeamSums]:
    """The sums of one region as it was written, of each channel."""
    array = open_level(job.uri, "s0", job.options)

    def sums(channel: int) -> SeamSums:
        """Of one channel."""
        return seam_sums(lambda region: np.asarray(array[(channel, *where(region))]), job.region, job.borders)

    return [sums(channel) for channel in range(array.shape[0])]


def seam_scores(sums: Sequence[SeamSums], names: Sequence[str]) -> dict[str, Any]:
    """The scores of a volume; of several channels those of the one whose borders show most, and all by `channels`."""
    by_name = {name: own.scores() for name, own in zip(names, sums, strict=True)}
    worst = max(by_name.values(), key=lambda scores: -1.0 if scores["ratio"] is None else scores["ratio"])
    return worst if len(by_name) == 1 else {**worst, "channels": by_name}


def _ratio(across: float, inside: float, count: int) -> float | None:
    if not count:
        return None
    if inside == 0:
        return 1.0 if across == 0 else float("inf")
    return across / inside


def seam_sums(read: Callable[[Region], np.ndarray], region: Region, borders: Sequence[np.ndarray]) -> SeamSums:
    """The sums of one region of a volume; those of regions that tile the volume add up to its own.

    Args:
        read: gives voxels (z, y, x) of a region. It is asked for one row or column (or plane) more before the region,
            where there is one, because a border may lie between two regions.
        region: half open, voxels.
        borders: along [z,] y and x, voxels before which a border lies (`AxisTiles.borders`), ascending.
    """
    total = SeamSums.none(len(borders))
    for number, axis in enumerate(range(3 - len(borders), 3)):
        wider = list(region)
        wider[axis] = max(0, region[axis][0] - 1), region[axis][1]
        across, near = _kinds(wider[axis], borders[number])
        if not near.any() and not across.any():
            continue
        for along, summed in _differences(read((wider[0], wider[1], wider[2])), axis):
            for kind, chosen in enumerate((across, near)):
                total.sums[number, kind] += along[chosen].sum()
                total.counts[number, kind] += chosen.sum() * summed
    return total


def _differences(voxels: np.ndarray, axis: int) -> Iterator[tuple[np.ndarray, int]]:
    """Absolute differences of neighbours along an axis, summed at each place along it, and how many each sum is of."""
    # float32 first: unsigned voxels would wrap around where the next is darker. A plane at a time: as floats, with
    # their differences, a block would take many times its memory.
    if axis == 0:
        pairs = itertools.pairwise(voxels)
        sums = [np.abs(b.astype(np.float32) - a.astype(np.float32)).sum(dtype=np.float64) for a, b in pairs]
        yield np.array(sums), voxels[0].size
        return
    for plane in voxels:
        difference = np.abs(np.diff(plane.astype(np.float32), axis=axis - 1))
        yield difference.sum(axis=2 - axis, dtype=np.float64), difference.shape[2 - axis]


def _kinds(span: Range, borders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the differences between neighbours in a span: which cross a border, which lie inside tiles beside one."""
    places = np.arange(span[0] + 1, span[1])
    if not len(borders) or not len(places):
        return np.zeros(len(places), bool), np.zeros(len(places), bool)
    after = np.searchsorted(borders, places)
    following, preceding = borders[np.minimum(after, len(borders) - 1)], borders[np.maximum(after - 1, 0)]
    distance = np.minimum(np.abs(places - following), np.abs(places - preceding))
    # Where borders follow one another more closely than that, all that lies between them is inside.
    off = OFF if len(borders) < 2 else min(OFF, int(np.diff(borders).max()) // 2)
    return distance == 0, (distance >= max(off, 1)) & (distance <= NEAR)
