"""Where the pixels of tiles rest: one Zarr group a block, written whole, marked complete by a small file written last.

A shard is the group ``shards/<name>.zarr`` (format v3) with the arrays anatomy, tumour and label, and one more for each
further channel of a role (anatomy_1, ...), each in the type of its own channel: tile axis first, one chunk a tile, all
chunks in one file, each with a CRC-32C that is compared whenever it is read. Beside it lie
``<name>.npz`` (histograms of its intensities) and ``<name>.json`` (its index rows). Names depend on the plan alone, so
a task that runs twice writes the same files again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import FsspecStore, LocalStore

from metgan_dist.errors import DamagedFile
from metgan_dist.storage import (
    Options,
    absolute,
    entries,
    exists,
    file_size,
    filesystem,
    is_local,
    join,
    one_line,
    read_bytes,
    read_json,
    storage_errors,
    storage_options,
    write_whole,
)
from metgan_dist.tiles.intensity import Histogram
from metgan_dist.tiles.shard_parts import index_bytes, part_of_shard

Histograms = dict[tuple[str, str], Histogram]
"""By (layer, key): the key is "" for a whole volume, "<view>:<plane>" for one position along a view."""


def write_shard(
    folder: str,
    name: str,
    tiles: Mapping[str, np.ndarray],
    histograms: Histograms,
    marker: Mapping[str, Any],
    options: Options | None,
) -> None:
    """Write the arrays (tile axis first) of a block, then its histograms, then its marker."""
    uri = join(folder, "shards", f"{name}.zarr")
    with storage_errors(uri):
        group = zarr.create_group(_store(uri, options, read_only=False), zarr_format=3, overwrite=True)
        for layer, pixels in tiles.items():
            group.create_array(
                layer,
                data=pixels,
                chunks=(1, *pixels.shape[1:]),
                shards=pixels.shape,
                compressors=[ZstdCodec(), Crc32cCodec()],
            )
    packed = io.BytesIO()
    arrays = {
        f"{layer}|{key}|{part}": getattr(histogram, part)
        for (layer, key), histogram in histograms.items()
        for part in ("values", "counts")
    }
    np.savez_compressed(packed, **arrays)
    write_whole(join(folder, "shards", f"{name}.npz"), packed.getvalue(), options)
    write_whole(join(folder, "shards", f"{name}.json"), json.dumps(marker).encode(), options)


def finished_markers(folder: str, options: Options | None) -> set[str]:
    """Names of the shards that are complete; one listing."""
    shards = join(folder, "shards")
    if not exists(shards, options):
        return set()
    return {file.removesuffix(".json") for file in entries(shards, options)[0] if file.endswith(".json")}


def remove_shards(folder: str, options: Options | None) -> None:
    """Remove all shards of a folder, if there are any."""
    fs, path = filesystem(join(folder, "shards"), options)
    with storage_errors(folder):
        if fs.exists(path):
            fs.rm(path, recursive=True)


def read_marker(folder: str, name: str, options: Options | None) -> dict[str, Any]:
    """What `write_shard` was given as marker."""
    return read_json(join(folder, "shards", f"{name}.json"), options)


def read_histograms(folder: str, name: str, options: Options | None) -> Histograms:
    """Histograms of a shard."""
    content = np.load(io.BytesIO(read_bytes(join(folder, "shards", f"{name}.npz"), options)), allow_pickle=False)
    keys = {tuple(entry.split("|")[:2]) for entry in content.files}
    return {
        (layer, key): Histogram(content[f"{layer}|{key}|values"], content[f"{layer}|{key}|counts"])
        for layer, key in sorted(keys)
    }


@dataclass(frozen=True)
class _Opened:
    """An array of a shard, its file, its bytes (None: all is 0, without a file), in object storage the file's index."""

    array: zarr.Array
    file: str
    size: int | None
    index: bytes


# A memo, not state: the same set (`digest`) has the same arrays. Opening costs more than reading a tile.
@lru_cache(maxsize=512)
def _opened(folder: str, name: str, layer: str, digest: str, packed: str) -> _Opened:
    uri, options = join(folder, "shards", f"{name}.zarr"), json.loads(packed)
    array = zarr.open_array(_store(uri, options, read_only=True), path=layer, mode="r", zarr_format=3)
    file = join(uri, layer, array.metadata.encode_chunk_key((0,) * array.ndim))
    size = file_size(file, options)
    # zarr reads an empty shard as one of empty tiles, which has no file at all.
    if size == 0:
        raise ValueError("the file is empty")
    index = b""
    if size is not None and not is_local(uri):
        fs, path = filesystem(file, options)
        index = fs.cat_file(path, start=-index_bytes(array))
    return _Opened(array, file, size, index)


def read_tile(folder: str, name: str, layer: str, position: int, digest: str, options: Options | None) -> np.ndarray:
    """Pixels of one layer of a tile as they were stored, (H, W) or (D, H, W).

    Raises DamagedFile where they cannot be read.
    """
    tile: np.ndarray = read_tiles(folder, name, layer, [position], digest, options)[0]
    return tile


def read_tiles(
    folder: str, name: str, layer: str, positions: Sequence[int], digest: str, options: Options | None
) -> np.ndarray:
    """Pixels of one layer of some tiles of a shard, (N, H, W) or (N, D, H, W), in the order of their positions.

    From object storage, tiles that lie beside each other come by one request. Raises DamagedFile where they cannot be
    read.
    """
    try:
        with storage_errors(folder):
            opened = _opened(folder, name, layer, digest, json.dumps(options or {}, sort_keys=True))
            array = opened.array
            if opened.size is not None and opened.index and len(positions) < array.shape[0]:
                array = part_of_shard(array, opened.file, opened.size, opened.index, positions, options)
            return np.asarray(array.oindex[np.asarray(positions)])
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        shard = join(folder, "shards", f"{name}.zarr", layer)
        raise DamagedFile(f"{shard}: cannot be read ({one_line(error)}); copy or cut the tiles again") from error


def _store(uri: str, options: Options | None, *, read_only: bool) -> LocalStore | FsspecStore:
    if is_local(uri):
        return LocalStore(absolute(uri), read_only=read_only)
    return FsspecStore.from_url(uri, storage_options=storage_options(uri, options), read_only=read_only)
