"""From the axes of a file, in whatever order, to channel and z, y, x."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.volumes.volume import Region

# What libraries call a third axis that a file leaves unnamed: `q`, `i` (tifffile), `n` (images of a folder).
_UNNAMED = "qin"


@dataclass(frozen=True)
class CanonicalAxes:
    """Where z, y, x and the channels are among the axes of an array; an absent one is None.

    source: one lower-case letter for each axis of the array; sizes: its shape.
    """

    source: str
    sizes: tuple[int, ...]
    z: int | None
    y: int
    x: int
    channel: int | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (z, y, x); z is 1 for a 2D image."""
        return (1 if self.z is None else self.sizes[self.z]), self.sizes[self.y], self.sizes[self.x]

    @property
    def channels(self) -> int:
        """Number of channels; 1 without a channel axis."""
        return 1 if self.channel is None else self.sizes[self.channel]

    def along(self, values: Sequence[Any], absent: Any) -> tuple[Any, Any, Any]:
        """Values given per file axis (chunk sizes, scales) in the order z, y, x; `absent` for a missing z."""
        return (absent if self.z is None else values[self.z]), values[self.y], values[self.x]

    def index(self, channel: int, region: Region) -> tuple[int | slice, ...]:
        """Index into the file's array for a channel and a region; other axes have length 1."""
        index: list[int | slice] = [0] * len(self.sizes)
        for axis, (start, stop) in zip((self.z, self.y, self.x), region, strict=True):
            if axis is not None:
                index[axis] = slice(start, stop)
        if self.channel is not None:
            index[self.channel] = channel
        return tuple(index)

    def canonical(self, array: np.ndarray) -> np.ndarray:
        """What indexing with `index` gave, turned to (z, y, x)."""
        kept = [axis for axis in (self.z, self.y, self.x) if axis is not None]
        array = array.transpose([sorted(kept).index(axis) for axis in kept])
        return array[np.newaxis] if self.z is None else array


def spatial_order(source: str) -> str:
    """z, y and x in the order in which the axes `source` have them; an unnamed axis stands for a z that is not there.

    >>> spatial_order("czxy"), spatial_order("qyx")
    ('zxy', 'zyx')
    """
    if "z" not in source:
        source = re.sub(f"[{_UNNAMED}]", "z", source, count=1)
    return "".join(axis for axis in source if axis in "zyx")


def canonical_axes(uri: str, source: str, sizes: Sequence[int]) -> CanonicalAxes:
    """Read the axes of a file.

    `source` has a letter per axis: z, y, x, c (or s, the samples of a colour TIFF) and t. An axis of unknown meaning
    stands for z where there is no z. Raises UserError when letters and sizes disagree, y or x is missing, an axis that
    is neither z, y, x nor channel is longer than 1, or one is of length 0.
    """
    source = source.lower()
    if len(source) != len(sizes) or len(set(source)) < len(source):
        raise UserError(f"{uri}: axes '{source}' do not fit an array of {len(sizes)} axes {tuple(sizes)}; set `axes`")
    if "y" not in source or "x" not in source:
        raise UserError(f"{uri}: axes '{source}' hold no y and x; set `axes`, for example zyx or czyx")
    if any(size < 1 for size in sizes):
        raise UserError(f"{uri}: an array of {' x '.join(map(str, sizes))} ('{source}') holds no voxels; save it again")
    long = [axis for axis, size in enumerate(sizes) if size > 1 and source[axis] not in "zyx"]
    z = source.index("z") if "z" in source else None
    unnamed = [axis for axis in range(len(source)) if source[axis] in _UNNAMED]
    if z is None and unnamed:
        z = next((axis for axis in unnamed if sizes[axis] > 1), unnamed[0])
    candidates = [axis for axis in range(len(source)) if source[axis] in "cs"]
    channel = next((axis for axis in candidates if sizes[axis] > 1), candidates[0] if candidates else None)
    extra = [f"{source[axis]} of length {sizes[axis]}" for axis in long if axis not in (z, channel)]
    if extra:
        raise UserError(
            f"{uri}: axes '{source}' hold {' and '.join(extra)}, which no volume has; split the file or set `axes`"
        )
    return CanonicalAxes(source, tuple(int(s) for s in sizes), z, source.index("y"), source.index("x"), channel)
