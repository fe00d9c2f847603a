"""The pixels of a block's tiles: read piece by piece, projected while reading, padded, resized.

A tile keeps the values and dtype of the file unless it is resized, which makes images float32. A projection takes the
maximum of images and of labels alike: where classes overlap along the view, the largest class wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import skimage  # loads a part of itself when that is first used

from metgan_dist.tiles.blocks import Block, Triplet, pieces
from metgan_dist.tiles.geometry import AXES, TilePlan, in_plane
from metgan_dist.volumes.layers import Layer
from metgan_dist.volumes.volume import Region

Read = Callable[[Layer, Region], np.ndarray]


def cut_block(
    block: Block, read: Read, dtypes: Mapping[Layer, np.dtype], chunks: Triplet, limit: int
) -> dict[Layer, list[np.ndarray]]:
    """The tiles of a block at source resolution, each chunk of the box read once.

    Args:
        block: what to cut.
        read: (layer, region) -> voxels (z, y, x).
        dtypes: layers to cut and their dtypes.
        chunks: voxels (z, y, x) of a chunk of the file.
        limit: bytes of voxels held at once, all layers together (or one chunk, when that is more).

    Returns:
        layer -> arrays (H, W) or (D, H, W), one a tile, without padding.
    """
    tiles = {layer: [_lowest(plan, dtype) for plan in block.plans] for layer, dtype in dtypes.items()}
    voxel = sum(dtype.itemsize for dtype in dtypes.values())
    for piece in pieces(block.box, chunks, voxel, limit):
        touched = [(number, plan) for number, plan in enumerate(block.plans) if _overlap(plan.region, piece)]
        for layer in dtypes if touched else ():
            voxels = read(layer, piece)
            for number, plan in touched:
                _add(tiles[layer][number], plan, voxels, piece)
    return tiles


def cut_volume(plans: Sequence[TilePlan], volume: Mapping[Layer, np.ndarray]) -> dict[Layer, list[np.ndarray]]:
    """The tiles of a volume that is in memory, for rules that preprocess it as a whole; otherwise as `cut_block`."""
    whole: dict[Layer, list[np.ndarray]] = {}
    for layer, voxels in volume.items():
        whole[layer] = [_lowest(plan, voxels.dtype) for plan in plans]
        z, y, x = voxels.shape
        for tile, plan in zip(whole[layer], plans, strict=True):
            _add(tile, plan, voxels, ((0, z), (0, y), (0, x)))
    return whole


def finish(tile: np.ndarray, plan: TilePlan, *, is_label: bool) -> np.ndarray:
    """Pad a cut tile with zeros and bring it to its output shape.

    Images are resized linearly with anti-aliasing and become float32; labels take the nearest pixel, in their dtype.
    """
    pad = [plan.pad[axis] for axis in in_plane(plan.view)]
    if any(before or after for before, after in pad):
        tile = np.pad(tile, pad)
    return tile if tile.shape == plan.shape else resample(tile, plan.shape, is_label=is_label)


def resample(image: np.ndarray, shape: tuple[int, ...], *, is_label: bool) -> np.ndarray:
    """An image or volume on another grid of the same extent: images float32, anti-aliased; labels nearest."""
    if is_label:
        return skimage.transform.resize(
            image, shape, order=0, mode="edge", anti_aliasing=False, preserve_range=True
        ).astype(image.dtype)
    shrinks = any(new < old for new, old in zip(shape, image.shape, strict=True))
    values = image.astype(np.float32)
    return skimage.transform.resize(
        values, shape, order=1, mode="edge", anti_aliasing=shrinks, preserve_range=True
    ).astype(np.float32)


def _lowest(plan: TilePlan, dtype: np.dtype) -> np.ndarray:
    """An empty tile that any value exceeds, to take maxima into."""
    shape = tuple(plan.region[axis][1] - plan.region[axis][0] for axis in in_plane(plan.view))
    lowest = np.iinfo(dtype).min if np.issubdtype(dtype, np.integer) else -np.inf
    return np.full(shape, lowest, dtype)


def _add(tile: np.ndarray, plan: TilePlan, voxels: np.ndarray, piece: Region) -> None:
    """Take the part of a tile that lies in a piece into the tile."""
    shared = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(plan.region, piece, strict=True)]
    part = voxels[tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(shared, piece, strict=True))]
    into = tile[
        tuple(
            slice(shared[axis][0] - plan.region[axis][0], shared[axis][1] - plan.region[axis][0])
            for axis in in_plane(plan.view)
        )
    ]
    if plan.view != "zyx":
        part = part.max(axis=AXES.index(plan.view))
    np.maximum(into, part, out=into)


def _overlap(region: Region, piece: Region) -> bool:
    return all(a < d and c < b for (a, b), (c, d) in zip(region, piece, strict=True))
