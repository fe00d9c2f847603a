"""Overlapping tiles along the axes of a volume, and the smooth weights that join them.

Each axis has a grid of its own, and the weight of a voxel in a tile is the product of those along its axes, so the same
few numbers serve planes and 3D crops alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from metgan_dist.volumes.volume import Range


@dataclass(frozen=True)
class AxisTiles:
    """Tiles of `edge` voxels along an axis of `length` voxels, each sharing `shared` voxels with the next.

    `starts` are their first voxels. The grid is centred and reaches past both ends of the axis, by half of `shared` or
    more, where the volume is continued by reflection: so no voxel lies nearer to the border of every tile that
    holds it than those in the middle of an overlap do.
    """

    length: int
    edge: int
    shared: int
    starts: tuple[int, ...]

    @staticmethod
    def over(length: int, edge: int, overlap: float) -> AxisTiles:
        """The fewest tiles of `edge` voxels that cover the axis; `overlap` (0 to 1) is the part that they share."""
        stride = max(1, round(edge * (1 - overlap)))
        shared = edge - stride
        # Half an overlap is added at each end: there, too, a voxel is seen from within a tile.
        count = 1 + max(0, math.ceil((length + 2 * (shared // 2) - edge) / stride))
        first = -((edge + (count - 1) * stride - length) // 2)
        return AxisTiles(length, edge, shared, tuple(first + number * stride for number in range(count)))

    @cached_property
    def weights(self) -> np.ndarray:
        """float32 (tiles, edge): what each voxel of a tile counts; over the tiles that share a voxel they sum to one.

        A raised cosine rises over the shared voxels (over half a tile, where more is shared), so that a tile fades in
        and out with no edge of its own.
        """
        rise = min(self.shared, self.edge // 2)
        # A rising sin^2 and its mirror image add up to 1; half a voxel off the ends, so that no weight is 0.
        ramp = np.sin(np.pi / 2 * (np.arange(rise) + 0.5) / max(rise, 1)) ** 2
        window = np.ones(self.edge)
        window[:rise] = ramp
        window[self.edge - rise :] = ramp[::-1]
        total = np.zeros(self.starts[-1] + self.edge - self.starts[0])
        parts = [slice(start - self.starts[0], start - self.starts[0] + self.edge) for start in self.starts]
        for part in parts:
            total[part] += window
        # Divided by their sum, since at large overlaps more than two tiles share a voxel.
        return np.stack([window / total[part] for part in parts]).astype(np.float32)

    def touching(self, span: Range) -> range:
        """Numbers of the tiles that hold a voxel of a span."""
        numbers = [n for n, start in enumerate(self.starts) if start < span[1] and span[0] < start + self.edge]
        return range(numbers[0], numbers[-1] + 1)

    def reach(self, numbers: range) -> Range:
        """From the first voxel of the first tile to the end of the last; may lie outside the axis."""
        return self.starts[numbers[0]], self.starts[numbers[-1]] + self.edge

    @property
    def borders(self) -> np.ndarray:
        """Voxels at which a tile begins, or the first after one: a border lies between such a voxel and the one before.

        Only those inside the axis, ascending.
        """
        ends = {edge for start in self.starts for edge in (start, start + self.edge)}
        return np.array(sorted(edge for edge in ends if 0 < edge < self.length), np.int64)


def reflected(span: Range, length: int) -> np.ndarray:
    """The voxels of an axis that stand for a span reaching past its ends: reflection about the first and last voxel."""
    if length == 1:
        return np.zeros(span[1] - span[0], np.int64)
    period = 2 * (length - 1)
    at = np.abs(np.arange(*span)) % period
    return np.where(at < length, at, period - at)
