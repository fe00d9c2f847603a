"""Some tiles of a shard in object storage by few requests, several of them at a time.

zarr asks for the index of a shard whenever it reads from it, and then for each tile by itself, one after the other.
Here the index is at hand, tiles that lie near each other come by one request, and what zarr then asks for is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import zarr
from fsspec.utils import merge_offset_ranges
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import StorePath, WrapperStore

from metgan_dist.storage import Options, filesystem

GAP = 2**20
"""Bytes between two tiles that are fetched with them: they take about as long as a request of their own."""
_ABSENT = 2**64 - 1  # place and length, in the index, of a tile that holds nothing but zeros


class _Held(WrapperStore[Store]):
    """A store of which parts of a single file are held: its last bytes, and others by where they begin."""

    def __init__(self, store: Store, end: bytes, parts: Sequence[tuple[int, bytes]]) -> None:
        super().__init__(store)
        self._end, self._parts = end, parts

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """As of any store."""
        match byte_range:
            case SuffixByteRequest(suffix=length) if length == len(self._end):
                return prototype.buffer.from_bytes(self._end)
            case RangeByteRequest(start=start, end=end):
                for first, part in self._parts:
                    if first <= start and end <= first + len(part):
                        return prototype.buffer.from_bytes(part[start - first : end - first])
        return await self._store.get(key, prototype, byte_range)


def index_bytes(array: zarr.Array) -> int:
    """Of the index at the end of the file of an array of one shard: place and length of each tile, and a CRC-32C."""
    return 16 * array.shape[0] + 4


def part_of_shard(
    array: zarr.Array, uri: str, size: int, index: bytes, positions: Sequence[int], options: Options | None
) -> zarr.Array:
    """The same array, with the bytes of some of its tiles at hand.

    Args:
        array: of one shard, a chunk a tile.
        uri, size: of its file.
        index: the last `index_bytes` of the file.
        positions: the tiles that are to be read.
        options: of the storage.

    Raises ValueError where the index cannot be that of the file.
    """
    places = np.frombuffer(index, "<u8", 2 * array.shape[0]).reshape(-1, 2)[list(positions)]
    places = places[places[:, 0] != _ABSENT]
    starts, ends = places[:, 0].tolist(), [int(start) + int(length) for start, length in places]
    if max(ends, default=0) > size:
        raise ValueError("its index names bytes beyond its end")
    fs, path = filesystem(uri, options)
    paths, starts, ends = merge_offset_ranges([path] * len(starts), starts, ends, max_gap=GAP)
    parts = list(zip(starts, fs.cat_ranges(paths, starts, ends, on_error="raise"), strict=True))
    store = _Held(array.store, index, parts)
    return zarr.Array(zarr.AsyncArray(array.metadata, StorePath(store, array.path)))
