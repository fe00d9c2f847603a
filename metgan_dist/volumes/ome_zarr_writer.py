"""OME-Zarr 0.5 (zarr v3, sharded) written block by block: levels of a pyramid, their arrays, their metadata.

An image is created without `multiscales`, filled by any number of processes, a shard each, and given its metadata last:
who can open it finds it whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import DTypeLike
from zarr.codecs import BloscCodec

from metgan_dist.storage import Options, filesystem, join, storage_errors
from metgan_dist.volumes.ome_zarr import zarr_store
from metgan_dist.volumes.volume import Region, Spacing

Triplet = tuple[int, int, int]

# 512 KiB of 16-bit voxels: little enough for a viewer to fetch, enough for one request to object storage.
CHUNK = (16, 128, 128)
SHARD = (1, 8, 8)  # chunks in a shard, at most: 32 MiB of 16-bit voxels
COLOURS = ("FF00FF", "00FF00", "00FFFF", "FFFF00")  # of channels, for viewers
ARRAY_SETTINGS: dict[str, Any] = {
    # Shuffled, because the upper bytes of neighbours agree; fast, because the lower ones are noise at any level.
    "compressors": BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
    "fill_value": 0,
    "config": {"write_empty_chunks": True},  # so that an absent chunk always means damage
}


Reduction = Literal["mean", "max"]
_REDUCTIONS: tuple[tuple[str, Reduction], ...] = (("", "mean"), ("labels/{label}/", "max"))


@dataclass(frozen=True)
class Level:
    """One level of a pyramid: path of its array, voxels (z, y, x), voxels of the finest level along one of its own."""

    path: str
    shape: Triplet
    factor: Triplet


def plan_levels(shape: Triplet, spacing: Spacing | None) -> tuple[Level, ...]:
    """Levels `s0`, `s1`, ... until a plane fits into one chunk.

    Rows and columns are halved from level to level; planes are where that brings a voxel nearer to a cube, that is,
    where they are less than sqrt(2) times as far apart as rows or columns. Without a spacing, voxels count as cubes.
    """
    sizes = (spacing.z, spacing.y, spacing.x) if spacing else (1.0, 1.0, 1.0)
    levels = [Level("s0", shape, (1, 1, 1))]
    while any(length > chunk for length, chunk in zip(levels[-1].shape[1:], CHUNK[1:], strict=True)):
        z, y, x = levels[-1].factor
        thin = sizes[0] * z < math.sqrt(2) * min(sizes[1] * y, sizes[2] * x)
        factor = (2 * z if thin and levels[-1].shape[0] > 1 else z, 2 * y, 2 * x)
        coarse = tuple(math.ceil(length / step) for length, step in zip(shape, factor, strict=True))
        levels.append(Level(f"s{len(levels)}", (coarse[0], coarse[1], coarse[2]), factor))
    return tuple(levels)


def chunks_and_shards(shape: Triplet) -> tuple[Triplet, Triplet]:
    """Voxels (z, y, x) of a chunk and of a shard, the file that holds some of them, for an array of this shape.

    Both depend on the shape alone, so that a volume looks the same whatever machine wrote it.
    """
    chunks, shards = [], []
    for length, most, together in zip(shape, CHUNK, SHARD, strict=True):
        chunk = min(length, most)
        count = math.ceil(length / chunk)
        chunks.append(chunk)
        # As few shards as `together` allows, and then as even as they can be, with no thin one at the end.
        shards.append(chunk * math.ceil(count / math.ceil(count / together)))
    return (chunks[0], chunks[1], chunks[2]), (shards[0], shards[1], shards[2])


def regions(shape: Sequence[int], unit: Sequence[int]) -> Iterator[Region]:
    """The grid of regions of `unit` voxels that covers a volume (z, y, x), those at the end cut to its size."""
    starts = (range(0, length, edge) for length, edge in zip(shape, unit, strict=True))
    for z, y, x in itertools.product(*starts):
        yield (
            (z, min(z + unit[0], shape[0])),
            (y, min(y + unit[1], shape[1])),
            (x, min(x + unit[2], shape[2])),
        )


def create_image(
    uri: str, levels: Sequence[Level], dtype: DTypeLike, label: str | None, options: Options | None, channels: int = 1
) -> None:
    """Empty arrays of an image (axes c, z, y, x) and of its label group (z, y, x; uint8), if any; replaces all."""
    store = zarr_store(uri, options, read_only=False)
    with storage_errors(uri):
        root = zarr.create_group(store, zarr_format=3, overwrite=True)
        group = None if label is None else root.create_group(f"labels/{label}")
        for level in levels:
            chunks, shards = chunks_and_shards(level.shape)
            root.create_array(
                level.path,
                shape=(channels, *level.shape),
                chunks=(1, *chunks),
                shards=(1, *shards),
                dtype=dtype,
                dimension_names=["c", "z", "y", "x"],
                **ARRAY_SETTINGS,
            )
            if group is None:
                continue
            group.create_array(
                level.path,
                shape=level.shape,
                chunks=chunks,
                shards=shards,
                dtype="uint8",
                dimension_names=["z", "y", "x"],
                **ARRAY_SETTINGS,
            )


def open_level(uri: str, path: str, options: Options | None, *, write: bool = False) -> zarr.Array:
    """The array of one level, `s0` or `labels/<name>/s0`; to be indexed with `where(region)`."""
    with storage_errors(uri):
        store = zarr_store(uri, options, read_only=not write)
        return zarr.open_array(store, path=path, mode="r+" if write else "r")


def write_block(
    uri: str, path: str, region: Region, voxels: np.ndarray, options: Options | None, channel: int = 0
) -> None:
    """Write a region (z, y, x) of a channel that is exactly one shard of a level, as far as it lies in the array.

    What an interrupted process left of that shard is removed first: at the end of an array, Zarr would read it.
    """
    array = open_level(uri, path, options, write=True)
    assert array.shards is not None
    lead = () if array.ndim == len(region) else (channel,)
    at = lead + tuple(start // size for (start, _), size in zip(region, array.shards[len(lead) :], strict=True))
    key = join(uri, path, array.metadata.encode_chunk_key(at))
    fs, place = filesystem(key, options)
    with storage_errors(key):
        if fs.exists(place):
            fs.rm_file(place)
        array[lead + where(region)] = voxels


def where(region: Region) -> tuple[Any, ...]:
    """Index of a region (z, y, x) into an array with or without a channel axis before."""
    return (..., *(slice(start, stop) for start, stop in region))


def channels_of(array: zarr.Array) -> int:
    """How many channels an image's array (c, z, y, x) has; 1 of a label's (z, y, x)."""
    return int(array.shape[0]) if array.ndim == 4 else 1


@dataclass(frozen=True)
class CoarserJob:
    """A region (z, y, x) of a coarser level to be made from the next finer one, of image and label alike.

    uri: the image; label: its label group, if any; finer, coarser: paths of the levels; step: voxels of the finer level
    that make one, along each axis.
    """

    uri: str
    label: str | None
    finer: str
    coarser: str
    region: Region
    step: Triplet
    options: Options


def coarsen_block(job: CoarserJob) -> dict[str, Any]:
    """Average the image; of the label take the largest class, as projections do, so that no lesion vanishes."""
    for prefix, how in _REDUCTIONS if job.label else _REDUCTIONS[:1]:
        prefix = prefix.format(label=job.label)
        source = open_level(job.uri, f"{prefix}{job.finer}", job.options)
        for channel in range(channels_of(source)):
            coarse = coarser(source, job.region, job.step, how, channel)
            write_block(job.uri, f"{prefix}{job.coarser}", job.region, coarse, job.options, channel)
    return {}


def coarser(source: zarr.Array, region: Region, step: Triplet, how: Reduction, channel: int = 0) -> np.ndarray:
    """Voxels (z, y, x) of a region of the next coarser level of a channel; `step` of `source` make one along each axis.

    Means are rounded for integers. The last voxel of an odd axis is made from what is there. Reads a chunk at a time.
    """
    lead = () if source.ndim == len(region) else (channel,)
    out = np.empty([stop - start for start, stop in region], source.dtype)
    for part in regions(out.shape, CHUNK):
        fine = [
            (size * (start + first), min(size * (start + last), length))
            for size, (start, _), (first, last), length in zip(step, region, part, source.shape[-3:], strict=True)
        ]
        voxels = np.asarray(source[lead + where((fine[0], fine[1], fine[2]))])
        out[where(part)] = _reduced(voxels, step, how)
    return out


def _reduced(voxels: np.ndarray, step: Triplet, how: Reduction) -> np.ndarray:
    short = [(0, -length % size) for length, size in zip(voxels.shape, step, strict=True)]
    if any(after for _, after in short):
        # The last voxel once more, which changes neither its mean with itself nor the maximum.
        voxels = np.pad(voxels, short, mode="edge")
    (z, y, x), (a, b, c) = voxels.shape, step
    cells = voxels.reshape(z // a, a, y // b, b, x // c, c)
    if how == "max":
        return cells.max(axis=(1, 3, 5))
    # Eight 16-bit integers add up exactly in float32, at half the memory of numpy's float64.
    mean = cells.mean(axis=(1, 3, 5), dtype=np.float32)
    return mean if voxels.dtype.kind == "f" else np.rint(mean).astype(voxels.dtype)


def finish_image(
    uri: str,
    image: Mapping[str, Any],
    label: str | None,
    label_image: Mapping[str, Any],
    more: Mapping[str, Any],
    options: Options | None,
) -> None:
    """Write the `ome` attributes, the label's first; `more` are further attributes of the image's group."""
    store = zarr_store(uri, options, read_only=False)
    with storage_errors(uri):
        if label is not None:
            zarr.open_group(store, path=f"labels/{label}", mode="r+").attrs.put({"ome": dict(label_image)})
            zarr.open_group(store, path="labels", mode="r+").attrs.put({"ome": {"version": "0.5", "labels": [label]}})
        zarr.open_group(store, mode="r+").attrs.put({"ome": dict(image), **more})


def image_metadata(multiscales: Mapping[str, Any], channels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The `ome` attribute of an image; `channels` as `channel` describes them."""
    return {"version": "0.5", "multiscales": [dict(multiscales)], "omero": {"channels": list(channels)}}


def channel(name: str, colour: str, window: tuple[float, float], limits: tuple[float, float]) -> dict[str, Any]:
    """A channel for viewers: its colour (RRGGBB), the range of values to display and that of possible ones."""
    (start, end), (low, high) = window, limits
    shown = {"start": start, "end": end, "min": low, "max": high}
    return {"label": name, "color": colour, "active": True, "window": shown}


def label_metadata(multiscales: Mapping[str, Any], classes: Mapping[int, str]) -> dict[str, Any]:
    """The `ome` attribute of a label group, with the names of its classes."""
    properties = [{"label-value": value, "class": name} for value, name in classes.items()]
    return {
        "version": "0.5",
        "multiscales": [dict(multiscales)],
        "image-label": {"version": "0.5", "properties": properties, "source": {"image": "../../"}},
    }


def multiscales(name: str, levels: Sequence[Level], spacing: Spacing | None, *, channel_axis: bool) -> dict[str, Any]:
    """Axes and levels of an image or label: voxel sizes (1 where unknown), and where coarser voxels have their centres.

    The centre of a coarse voxel lies (factor - 1) / 2 fine voxels after that of the first fine voxel in it.
    """
    sizes = (spacing.z, spacing.y, spacing.x) if spacing else (1.0, 1.0, 1.0)
    unit = {"unit": spacing.unit} if spacing and spacing.unit != "unknown" else {}
    lead = [{"name": "c", "type": "channel"}] if channel_axis else []
    datasets = []
    for level in levels:
        scale = [float(size * factor) for size, factor in zip(sizes, level.factor, strict=True)]
        shift = [size * (factor - 1) / 2 for size, factor in zip(sizes, level.factor, strict=True)]
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [1.0] * len(lead) + scale}]
        if any(shift):
            transforms.append({"type": "translation", "translation": [0.0] * len(lead) + shift})
        datasets.append({"path": level.path, "coordinateTransformations": transforms})
    axes = [*lead, *({"name": axis, "type": "space", **unit} for axis in "zyx")]
    return {"name": name, "axes": axes, "datasets": datasets}
