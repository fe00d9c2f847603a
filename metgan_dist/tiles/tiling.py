"""What one task does: open a volume, cut the tiles of one block, count and measure them, write their shard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from metgan_dist.recipe import Tiles
from metgan_dist.storage import Options
from metgan_dist.tiles import cardiac
from metgan_dist.tiles.blocks import Block, Triplet, piece_limit, pieces
from metgan_dist.tiles.cut import cut_block, cut_volume, finish
from metgan_dist.tiles.floor import Floor
from metgan_dist.tiles.geometry import AXES, TilePlan, in_plane, target_factors
from metgan_dist.tiles.grid import Placed, WholeGrid, grid_of
from metgan_dist.tiles.intensity import Histogram
from metgan_dist.tiles.ranges import range_of
from metgan_dist.tiles.shards import Histograms, write_shard
from metgan_dist.volumes.labelled import LabelledVolume, VolumeRef
from metgan_dist.volumes.layers import Layer
from metgan_dist.volumes.volume import Region


@dataclass(frozen=True)
class BlockJob:
    """All that a task needs, small enough to travel."""

    ref: VolumeRef
    block: Block
    layers: tuple[Layer, ...]
    tiles: Tiles
    memory: int
    folder: str
    shard: str
    options: Options | None
    floor: Floor


def tile_block(job: BlockJob) -> dict[str, Any]:
    """Write the shard of a block and return its marker: {"rows": one dict a tile}.

    Holds at most about `job.memory` bytes of voxels, except for modalities that need the whole volume.
    """
    volume = job.ref.open()
    cut, placed, removed = _cut(job, volume)
    histograms = _histograms(job, cut)
    rows = [_row(job, volume, plan, position, placed) | removed for position, plan in enumerate(job.block.plans)]
    if job.tiles.normalise_over == "tile":
        for layer in images_of(job.layers):
            for row, tile in zip(rows, cut[layer], strict=True):
                row.update(_tile_range(job.tiles, layer, tile))
    finished: dict[str, np.ndarray] = {}
    for layer in job.layers:
        # Cut tiles are let go one by one: only one copy of the block's pixels is held.
        tiles = cut.pop(layer)[::-1]
        finished[layer] = _stack(tiles, job.block.plans, is_label=layer == "label", rules=job.tiles)
    if "label" in finished:
        counts = np.count_nonzero(finished["label"].reshape(len(rows), -1), axis=1)
        for row, count in zip(rows, counts, strict=True):
            row["foreground"] = int(count)
    marker = {"rows": rows}
    write_shard(job.folder, job.shard, finished, histograms, marker, job.options)
    return marker


def images_of(layers: Iterable[Layer]) -> list[Layer]:
    """All layers but the label."""
    return [layer for layer in layers if layer != "label"]


def resized(tiles: Tiles) -> bool:
    """Whether images become float32 because they are brought to another grid."""
    return tiles.resize is not None or tiles.spacing is not None or preprocessed_shape(tiles) is not None


def in_plane_pixels(plan: TilePlan) -> int:
    """Source voxels that one tile takes after its projection."""
    return int(np.prod([plan.region[axis][1] - plan.region[axis][0] for axis in in_plane(plan.view)]))


def preprocessed_shape(tiles: Tiles) -> Triplet | None:
    """Voxels (z, y, x) of the volume that is prepared as a whole, from which tiles are cut; None where none is.

    Three numbers in `tiles.size` of a cardiac crop take the place of the paper's 86 x 112 x 112. Raises UserError as
    `grid_of` does.
    """
    grid = grid_of(tiles)
    if grid is not None:
        return grid.shape
    if not tiles.modality.startswith("cardiac"):
        return None
    z, y, x = tiles.size if tiles.kind == "crop" and len(tiles.size) == 3 else cardiac.SHAPE
    return z, y, x


def _cut(job: BlockJob, volume: LabelledVolume) -> tuple[dict[Layer, list[np.ndarray]], Placed, dict[str, Any]]:
    """The tiles as cut, where the voxels lie that they were cut from, and what the floor removed of images, by column
    of the index."""
    if job.tiles.modality.startswith("cardiac"):
        return *_cut_heart(job, volume), {}
    grid = grid_of(job.tiles)
    if grid is None:
        dtypes = {layer: volume.dtypes[layer] for layer in job.layers}
        return cut_block(job.block, volume.read, dtypes, volume.chunks, piece_limit(job.memory)), Placed(), {}
    prepared, removed = _on_grid(job, volume, grid)
    return cut_volume(job.block.plans, prepared), grid.placed(volume.shape), removed


def _on_grid(job: BlockJob, volume: LabelledVolume, grid: WholeGrid) -> tuple[dict[Layer, np.ndarray], dict[str, Any]]:
    """Whole layers on the grid, images without what is below the floor, and what that took of each.

    Of several channels each is treated as the others are, by its own intensities.
    """
    z, y, x = volume.shape
    whole: Region = (0, z), (0, y), (0, x)
    laid = {layer: grid.laid(volume.read(layer, whole), is_label=layer == "label") for layer in job.layers}
    columns: dict[str, Any] = {}
    for layer in images_of(job.layers):
        laid[layer], removed = job.floor.cut(laid[layer], laid.get("label"))
        if removed is not None:
            columns |= {f"{layer}_{name}": value for name, value in removed.columns().items()}
    return laid, columns


def _cut_heart(job: BlockJob, volume: LabelledVolume) -> tuple[dict[Layer, list[np.ndarray]], Placed]:
    shape = preprocessed_shape(job.tiles) or cardiac.SHAPE
    spacing = job.tiles.spacing or cardiac.SPACING
    at = volume.spacing
    factors = target_factors(
        job.tiles.model_copy(update={"spacing": spacing}), job.ref.id, (at.z, at.y, at.x) if at else None
    )
    z, y, x = volume.shape
    parts = pieces(((0, z), (0, y), (0, x)), volume.chunks, volume.dtypes["label"].itemsize, piece_limit(job.memory))
    centre = cardiac.heart_centre(lambda part: volume.read("label", part), parts)
    region, pad = cardiac.crop_region(centre or (z / 2, y / 2, x / 2), volume.shape, factors, shape)
    prepared = {
        layer: cardiac.preprocess(volume.read(layer, region), pad, is_label=layer == "label", crop=shape)
        for layer in job.layers
    }
    origin = tuple(float(first - before) for (first, _), (before, _) in zip(region, pad, strict=True))
    return cut_volume(job.block.plans, prepared), Placed((origin[0], origin[1], origin[2]), factors)


def _histograms(job: BlockJob, cut: dict[Layer, list[np.ndarray]]) -> Histograms:
    """Of the tiles as cut: neither padding nor resizing changes the statistics."""
    per_plane = job.tiles.normalise_over == "plane"
    pixels: dict[tuple[str, str], list[np.ndarray]] = {}
    for layer in images_of(job.layers):
        for plan, tile in zip(job.block.plans, cut[layer], strict=True):
            key = plane_key(plan.view, plan.plane) if per_plane else ""
            pixels.setdefault((layer, key), []).append(tile)
    return {key: Histogram.of_tiles(tiles) for key, tiles in pixels.items()}


def plane_key(view: str, plane: int) -> str:
    """Key of the histograms of all tiles at one position along a view."""
    return f"{view}:{plane}"


def _tile_range(tiles: Tiles, layer: Layer, tile: np.ndarray) -> dict[str, float]:
    histogram = Histogram.of(tile)
    low, high = range_of(histogram, tiles)
    return {f"{layer}_low": low, f"{layer}_high": high, f"{layer}_clipped": histogram.fraction_outside(low, high)}


def _stack(tiles: list[np.ndarray], plans: tuple[TilePlan, ...], *, is_label: bool, rules: Tiles) -> np.ndarray:
    dtype = np.float32 if resized(rules) and not is_label else tiles[-1].dtype
    stacked = np.empty((len(plans), *plans[0].shape), dtype)
    for position, plan in enumerate(plans):
        stacked[position] = finish(tiles.pop(), plan, is_label=is_label)
    return stacked


def _row(job: BlockJob, volume: LabelledVolume, plan: TilePlan, position: int, placed: Placed) -> dict[str, Any]:
    """The index row of a tile, with its region and padding in source voxels."""
    row: dict[str, Any] = {"index": plan.index, "shard": job.shard, "position": position, "foreground": 0}
    row |= {"view": plan.view, "plane": plan.plane}
    at = volume.spacing
    output = dict(zip(in_plane(plan.view), plan.shape, strict=True))
    for axis, name in enumerate(AXES):
        (low, high), (before, after) = plan.region[axis], plan.pad[axis]
        first = round(placed.origin[axis] + (low - before) * placed.factor[axis])
        last = max(first + 1, round(placed.origin[axis] + (high + after) * placed.factor[axis]))
        inside = [min(max(edge, 0), volume.shape[axis]) for edge in (first, last)]
        row[f"{name}0"], row[f"{name}1"] = inside
        row[f"pad_{name}0"], row[f"pad_{name}1"] = inside[0] - first, last - inside[1]
        extent = (high - low + before + after) * placed.factor[axis]
        row[f"spacing_{name}"] = getattr(at, name) * extent / output.get(axis, 1) if at else None
    return row
