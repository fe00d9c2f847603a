"""The rules by which nnU-Net lays out its U-Net for a data set (Isensee et al., Nature Methods 2021; version 2).

From the fingerprint of a data set, the voxel sizes and shapes of its volumes, follow the voxel size to which all are
resampled, the patch, the levels of the network with their strides and kernels, and the batch. Axes are z, y, x. No
torch: what is planned can be told before anything is built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_EDGE = 4  # an axis is halved as long as this many pixels are left
LEAST_LEVELS = 3  # that MONAI's network can be built with
ANISOTROPIC = 3.0  # how many times longer than the others an axis' voxels are that is treated apart
LOW_PERCENTILE = 10.0  # of such an axis' voxel sizes, which becomes the target
FIRST_CHANNELS = 32
MOST_CHANNELS = {2: 512, 3: 320}
# The largest patch before memory counts, as the edge of one of equal edges.
WIDEST = {2: 2048, 3: 256}
# Values of all feature maps of a patch that 8 GB are planned for, and the batch that fits then.
REFERENCE = {2: 85_000_000, 3: 560_000_000}
REFERENCE_BATCH = {2: 12, 3: 2}
LEAST_BATCH = 2
SHARE_OF_SET = 0.05  # of the voxels of all volumes, which a batch has at most


@dataclass(frozen=True)
class Layout:
    """Levels of a U-Net, the finest first, whose stride is 1: strides and kernels along each axis."""

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]

    @property
    def divisor(self) -> tuple[int, ...]:
        """What the edges of a patch have to be multiples of."""
        return tuple(math.prod(along) for along in zip(*self.strides, strict=True))

    def channels(self) -> tuple[int, ...]:
        """Of each level: 32, doubling, to at most 320 (512 in 2D)."""
        most = MOST_CHANNELS[len(self.strides[0])]
        return tuple(min(most, FIRST_CHANNELS * 2**level) for level in range(len(self.strides)))


@dataclass(frozen=True)
class Fingerprint:
    """Of each volume its voxel size and its shape (z, y, x)."""

    spacings: tuple[tuple[float, float, float], ...]
    shapes: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Plan:
    """spacing: voxel size that all volumes are brought to; patch: pixels of a tile; layout: levels; batch: tiles.

    In 2D `spacing` and `patch` are those of the plane, y and x.
    """

    spacing: tuple[float, ...]
    patch: tuple[int, ...]
    layout: Layout
    batch: int


def layout_of(edges: Sequence[float], spacing: Sequence[float] | None = None, *, pad: bool = True) -> Layout:
    """Levels for patches of these edges and voxels of this size (equal along all axes without it).

    An axis is halved as long as it has 8 pixels, or 12 where it is the last, and its voxels are less than twice as long
    as the shortest of those that can still be halved: thick slices wait until the plane is as coarse. Kernels are 1
    along an axis whose voxels are twice the shortest or longer, and 3 from the level on where they no longer are.

    pad: odd edges are halved, too, as nnU-Net does, which pads patches to multiples of `divisor`; else they are left.
    """
    here, voxel = list(edges), list(spacing or [1.0] * len(edges))
    kernel = [1] * len(here)
    strides, kernels = [(1,) * len(here)], []
    while True:
        kernel = [3 if size / min(voxel) < 2 else own for own, size in zip(kernel, voxel, strict=True)]
        kernels.append(tuple(kernel))
        halved = _halved(here, voxel, pad=pad)
        if not halved:
            break
        stride = tuple(2 if axis in halved else 1 for axis in range(len(here)))
        here = [math.ceil(edge / step) for edge, step in zip(here, stride, strict=True)]
        voxel = [size * step for size, step in zip(voxel, stride, strict=True)]
        strides.append(stride)
    # The bottleneck's kernels are 3 along all axes, whatever is left between these.
    return Layout(tuple(strides), (*kernels[:-1], (3,) * len(here)))


def _halved(edges: Sequence[float], voxel: Sequence[float], *, pad: bool) -> set[int]:
    """The axes that the next level halves."""
    long = [axis for axis, edge in enumerate(edges) if edge >= 2 * LEAST_EDGE and (pad or edge % 2 == 0)]
    if not long:
        return set()
    shortest = min(voxel[axis] for axis in long)
    alike = {axis for axis in long if voxel[axis] / shortest < 2}
    alone = len(alike) == 1 and edges[min(alike)] < 3 * LEAST_EDGE
    return set() if alone else alike


def target_spacing(fingerprint: Fingerprint) -> tuple[float, float, float]:
    """The median voxel size along each axis; of slices three times as thick as pixels are wide a low percentile.

    The latter where these are also so few that the axis is shorter than a third of the others, in voxels.
    """
    sizes = np.asarray(fingerprint.spacings, float)
    target, shape = np.median(sizes, axis=0), np.median(np.asarray(fingerprint.shapes, float), axis=0)
    thick = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != thick]
    if target[thick] > ANISOTROPIC * target[others].max() and ANISOTROPIC * shape[thick] < shape[others].min():
        low = float(np.percentile(sizes[:, thick], LOW_PERCENTILE))
        # Not below the others, or it would no longer be the thick one.
        target[thick] = max(low, target[others].max() + 1e-5)
    z, y, x = (float(size) for size in target)
    return z, y, x


def plan(fingerprint: Fingerprint, dimensions: int = 3, *, channels: int = 1, classes: int = 2) -> Plan:
    """The full-resolution plan for a data set, of 3D patches or of 2D ones of its planes, for 8 GB.

    channels: of the images; classes: of the labels, background included.
    """
    spacing = target_spacing(fingerprint)
    resampled = [
        [length * size / wanted for length, size, wanted in zip(shape, own, spacing, strict=True)]
        for shape, own in zip(fingerprint.shapes, fingerprint.spacings, strict=True)
    ]
    shape = np.median(np.round(resampled), axis=0)
    voxels = float(np.prod(shape)) * len(fingerprint.shapes)
    own, edges = spacing[3 - dimensions :], shape[3 - dimensions :]
    patch, layout = _fitted(_widest(own, edges), own, edges, classes)
    values = feature_values(patch, layout, classes)
    batch = round(REFERENCE[dimensions] / values * REFERENCE_BATCH[dimensions])
    few = round(voxels * SHARE_OF_SET / math.prod(patch))
    return Plan(own, patch, layout, max(min(batch, few), LEAST_BATCH))


def _widest(spacing: Sequence[float], shape: Sequence[float]) -> list[int]:
    """A patch of the proportions of a cube in millimetres, cut to the median volume."""
    inverse = [1 / size for size in spacing]
    factor = (WIDEST[len(inverse)] ** len(inverse) / math.prod(inverse)) ** (1 / len(inverse))
    return [min(round(factor * one), math.floor(length)) for one, length in zip(inverse, shape, strict=True)]


def _fitted(
    patch: Sequence[int], spacing: Sequence[float], shape: Sequence[float], classes: int
) -> tuple[tuple[int, ...], Layout]:
    """The patch, its longest axis beside the volume's shortened until its feature maps fit, padded; and its levels."""
    patch, layout = _padded(patch, spacing)
    while feature_values(patch, layout, classes) > REFERENCE[len(patch)]:
        axis = int(np.argsort([edge / length for edge, length in zip(patch, shape, strict=True)])[-1])
        shorter = list(patch)
        shorter[axis] -= layout.divisor[axis]
        # By what the shorter patch would be a multiple of, which may be less.
        step = layout_of(shorter, spacing).divisor[axis]
        patch, layout = _padded([edge - step * (at == axis) for at, edge in enumerate(patch)], spacing)
    return patch, layout


def _padded(patch: Sequence[int], spacing: Sequence[float]) -> tuple[tuple[int, ...], Layout]:
    layout = layout_of(patch, spacing)
    padded = tuple(-(-edge // step) * step for edge, step in zip(patch, layout.divisor, strict=True))
    return padded, layout


def feature_values(patch: Sequence[int], layout: Layout, classes: int) -> int:
    """Values of all feature maps that convolutions make of a patch, as nnU-Net counts them for its memory.

    Two convolutions a level down and up, a transposed one between levels, and logits at full size.
    """
    sizes, here = [], list(patch)
    for stride in layout.strides:
        here = [edge // step for edge, step in zip(here, stride, strict=True)]
        sizes.append(math.prod(here))
    channels = layout.channels()
    down = sum(2 * width * size for width, size in zip(channels, sizes, strict=True))
    up = sum(3 * width * size for width, size in zip(channels[:-1], sizes[:-1], strict=True))
    return down + up + classes * sizes[0]
