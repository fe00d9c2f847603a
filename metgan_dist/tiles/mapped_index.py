"""The index of a large set as a file of this machine that is mapped, not read: made once of `index.parquet`.

`index.parquet` stays what is stored. A rank that streams would hold it as a frame, hundreds of bytes a tile; so the
columns that a stream asks for are written, row group by row group, to an uncompressed Arrow file in the cache folder,
where all ranks of a machine share its pages. It is named by the digest of the set, so it never has to be compared with
anything, and files that nobody has opened for a week go when another is written.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from metgan_dist.errors import DamagedFile
from metgan_dist.storage import Options, absolute, cache_folder, cached_file, filesystem, is_local, storage_errors
from metgan_dist.tiles.columns import BATCH, MappedColumns

STREAMED = ("volume", "domain", "organ", "split", "shard", "position", "part", "label_row", "foreground")
"""What a stream asks for beside the ranges of layers, where the index has it."""
RANGES = ("_low", "_high")
UNUSED_DAYS = 7


def mapped_columns(
    uri: str, sha256: str, digest: str, options: Options | None, whole: Callable[[], pd.DataFrame]
) -> MappedColumns:
    """The columns of an index.parquet, mapped; they are written first where this machine has not got them.

    Args:
        uri: of the index.
        sha256: of its content, compared when the columns are written.
        digest: of the set.
        options: of its storage.
        whole: reads the index as a frame.

    Raises DamagedFile where the content is another.
    """

    def write(path: Path) -> None:
        _forget_unused()
        with _on_this_machine(uri, options) as packed:
            check_index(uri, _sha256(packed), sha256)
            _write(packed, path)

    return MappedColumns(cached_file(f"index-{digest[:32]}.arrow", write), whole)


def check_index(uri: str, found: str, expected: str) -> None:
    """DamagedFile unless the SHA-256 of an index is that of its manifest."""
    if found != expected:
        raise DamagedFile(f"{uri}: not the index that manifest.json names; remove the folder, make it again")


@contextmanager
def _on_this_machine(uri: str, options: Options | None) -> Iterator[Path]:
    """A path with the content of a file: itself, or a copy for the time of the block."""
    if is_local(uri):
        yield Path(absolute(uri))
        return
    fs, path = filesystem(uri, options)
    with tempfile.TemporaryDirectory(prefix="index-", dir=cache_folder()) as folder:
        copy = Path(folder) / "index.parquet"
        with storage_errors(uri):
            fs.get_file(path, str(copy))
        yield copy


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(packed: Path, path: Path) -> None:
    """The streamed columns of a parquet file as an Arrow file, some MiB at a time."""
    # Without what reads ahead: it would hold all row groups of the file.
    with pq.ParquetFile(packed, pre_buffer=False) as stored:
        names = [name for name in stored.schema_arrow.names if name in STREAMED or name.endswith(RANGES)]
        columns = {name: _Column(stored.schema_arrow.field(name).type) for name in names}
        schema = pa.schema([(name, column.type) for name, column in columns.items()])
        # Strings that later rows bring are appended to the dictionary, which readers then see whole from the start.
        growing = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
        with pa.ipc.new_file(str(path), schema, options=growing) as written:
            for batch in stored.iter_batches(BATCH, columns=names):
                arrays = [column.encoded(batch.column(name)) for name, column in columns.items()]
                written.write_batch(pa.record_batch(arrays, schema=schema))


class _Column:
    """How a column is written: numbers as they are, strings and None as places in a dictionary that grows."""

    def __init__(self, stored: pa.DataType) -> None:
        self._number = pa.types.is_integer(stored) or pa.types.is_floating(stored)
        self.type = stored if self._number else pa.dictionary(pa.int32(), pa.string())
        self._places: dict[Any, int] = {}
        self._values = pa.array([], pa.string())

    def encoded(self, column: pa.Array) -> pa.Array:
        """What is written of a part of the column."""
        if self._number:
            return pa.array(column.to_numpy(zero_copy_only=False), self.type)  # a number that is missing is NaN
        own = column.cast(pa.string()).dictionary_encode(null_encoding="encode")
        known = len(self._places)
        places = [self._places.setdefault(value, len(self._places)) for value in own.dictionary.to_pylist()]
        if len(self._places) > known:
            self._values = pa.array(list(self._places), pa.string())
        numbers = np.array(places, np.int32)[own.indices.to_numpy()]
        return pa.DictionaryArray.from_arrays(pa.array(numbers), self._values)


def _forget_unused() -> None:
    """Remove indices, and what was found in them, that nobody has opened for a week; who still maps them may go on."""
    before = time.time() - UNUSED_DAYS * 86400
    for file in cache_folder().glob("index-*"):
        if file.is_file() and file.stat().st_mtime < before:
            file.unlink(missing_ok=True)
