"""What all phantoms share: a volume of any size, drawn block by block from a seed and global voxel coordinates."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from metgan_dist.volumes.phantoms.field import Axes, Floats, random_generator, smooth_noise
from metgan_dist.volumes.volume import Region, check_region

# Part of what a seed means: noise and objects are drawn block by block, so another size draws other volumes.
BLOCK = (32, 64, 64)


@dataclass(frozen=True)
class Block:
    """One aligned block of `BLOCK` voxels: its index in the grid of blocks and its voxel centres in physical units."""

    index: tuple[int, int, int]
    axes: Axes

    def noise(self, seed: int, period: tuple[float, float, float] | float) -> Floats:
        """Smooth unit-variance field with structures of about `period` (physical units)."""
        return smooth_noise(seed, self.axes, period)

    def mesh(self) -> tuple[Floats, Floats, Floats]:
        """Coordinates z, y, x of the voxels, shaped to broadcast to the block."""
        z, y, x = (axis.astype(np.float32) for axis in self.axes)
        return z[:, None, None], y[None, :, None], x[None, None, :]


@dataclass(frozen=True)
class Drawing:
    """A drawn region: images (channel, z, y, x) in the phantom's dtype, label (z, y, x) uint8."""

    images: NDArray[np.generic]
    label: NDArray[np.uint8]


@dataclass(frozen=True)
class Truth:
    """What a region was drawn from, without noise.

    `clean`: (channel, z, y, x) float32 before noise and rounding; `label`: (z, y, x) uint8; `lure`: (z, y, x) bool,
    what is bright in the anatomy channel without being a lesion or a region.
    """

    clean: Floats
    label: NDArray[np.uint8]
    lure: NDArray[np.bool_]


class ProceduralVolume(ABC):
    """A phantom volume. Every block is a pure function of (seed, block index): the result of `draw` depends neither
    on how the volume is cut into regions nor on their order, and memory is bounded by the region."""

    channels: ClassVar[tuple[str, ...]]
    windows: ClassVar[tuple[tuple[int, int], ...]]  # range of values to display, per channel
    dtype: ClassVar[np.dtype]
    label_name: ClassVar[str]
    label_classes: ClassVar[tuple[str, ...]]
    unit: ClassVar[str]
    anatomy: ClassVar[str]
    tumour: ClassVar[str]
    organs: ClassVar[tuple[str, ...]]
    domain: ClassVar[str] = ""  # for phantoms of two domains, and by which rules its volumes become tiles
    rules: ClassVar[str] = ""
    names_labels: ClassVar[bool] = False  # whether the data set has the classes by name, not by their number alone

    def __init__(self, shape: tuple[int, int, int], spacing: tuple[float, float, float], seed: int) -> None:
        self.shape = shape
        self.spacing = spacing
        self.seed = seed

    @abstractmethod
    def _compose(self, block: Block) -> Truth:
        """The noise-free content of one block."""

    @abstractmethod
    def _expose(self, clean: Floats, block: Block) -> Floats:
        """Adds the detector's noise to (channel, z, y, x); the result is rounded and clipped to the dtype."""

    def draw(self, region: Region) -> Drawing:
        """Images and label of a region (half open, voxels, inside the volume)."""
        size = _size(region)
        images = np.empty((len(self.channels), *size), dtype=self.dtype)
        label = np.empty(size, dtype=np.uint8)
        limits = np.iinfo(self.dtype)
        for block, inside, target in self._blocks(region):
            truth = self._compose(block)
            noisy = self._expose(truth.clean, block)[:, *inside]
            # Rounded before the cast, which alone would cut off and darken the image by half a count.
            np.rint(noisy, out=noisy)
            images[:, *target] = np.clip(noisy, limits.min, limits.max)
            label[target] = truth.label[inside]
        return Drawing(images, label)

    def truth(self, region: Region) -> Truth:
        """The noise-free content of a region, for tests and figures."""
        size = _size(region)
        result = Truth(
            np.empty((len(self.channels), *size), np.float32), np.empty(size, np.uint8), np.empty(size, np.bool_)
        )
        for block, inside, target in self._blocks(region):
            part = self._compose(block)
            result.clean[:, *target] = part.clean[:, *inside]
            result.label[target] = part.label[inside]
            result.lure[target] = part.lure[inside]
        return result

    def _voxel_noise(self, block: Block, stream: int) -> Floats:
        """Standard normal noise, independent per voxel and stream."""
        # From 1000 on, apart from the streams that objects are drawn from.
        return random_generator(self.seed, 1000 + stream, *block.index).standard_normal(BLOCK, dtype=np.float32)

    def _blocks(self, region: Region) -> list[tuple[Block, tuple[slice, ...], tuple[slice, ...]]]:
        """Blocks that a region touches, the part of each that is inside, and where that part goes in the region."""
        check_region(region, self.shape, "phantom")
        ranges = [range(a // edge, -(-b // edge)) for (a, b), edge in zip(region, BLOCK, strict=True)]
        found = []
        for index in itertools.product(*ranges):
            origin = [i * edge for i, edge in zip(index, BLOCK, strict=True)]
            z, y, x = (
                np.asarray((start + np.arange(edge) + 0.5) * step, dtype=np.float64)
                for start, edge, step in zip(origin, BLOCK, self.spacing, strict=True)
            )
            low = [max(a, o) for (a, _), o in zip(region, origin, strict=True)]
            high = [min(b, o + edge) for (_, b), o, edge in zip(region, origin, BLOCK, strict=True)]
            inside = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, origin, strict=True))
            target = tuple(slice(a - r, b - r) for a, b, (r, _) in zip(low, high, region, strict=True))
            found.append((Block((index[0], index[1], index[2]), (z, y, x)), inside, target))
        return found


def _size(region: Region) -> tuple[int, int, int]:
    (z0, z1), (y0, y1), (x0, x1) = region
    return z1 - z0, y1 - y0, x1 - x0
