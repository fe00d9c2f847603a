"""The columns of an index by rows, wherever they lie: in a frame, or mapped from a file of this machine.

A stream asks for a few columns of some thousand rows at a time, so it needs no frame of all of them, which takes about
550 bytes a tile in every process that has one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa

from metgan_dist.storage import cached_file

BATCH = 2**18
"""Rows of a file that are written, or looked at, together: 20 MiB of all columns that a stream asks for."""

Wanted = Mapping[str, Collection[str]]
"""What rows are asked for: of each column named the values that may stand there."""


class Columns(Protocol):
    """Columns of an index, a row a tile, in the order of row numbers."""

    def __len__(self) -> int:
        """How many rows there are."""

    def __contains__(self, name: str) -> bool:
        """Whether there is a column of this name."""

    @property
    def frame(self) -> pd.DataFrame:
        """The whole index."""

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Values of a column (N,) in the given rows (N,); strings as objects."""

    def where(self, wanted: Wanted) -> np.ndarray:
        """Rows, int64, ascending, that hold in each column named one of the values; may be mapped, so not to write."""

    def distinct(self, name: str, rows: np.ndarray | None = None) -> set[Any]:
        """The different values of a column in the given rows, or in all."""


class HeldColumns:
    """Those of a frame."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame

    def __len__(self) -> int:
        return len(self.frame)

    def __contains__(self, name: str) -> bool:
        return name in self.frame

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """As `Columns`."""
        return self.frame[name].iloc[rows].to_numpy()

    def where(self, wanted: Wanted) -> np.ndarray:
        """As `Columns`."""
        fit = np.full(len(self.frame), True)
        for name, values in wanted.items():
            fit &= self.frame[name].isin(list(values)).to_numpy()
        return np.flatnonzero(fit)

    def distinct(self, name: str, rows: np.ndarray | None = None) -> set[Any]:
        """As `Columns`."""
        return set(self.frame[name] if rows is None else self.frame[name].iloc[rows])


class MappedColumns:
    """Those of an Arrow file on this machine, mapped into memory: pages that nobody looks at take none.

    Args:
        file: at least one record batch of columns without nulls, strings as dictionaries. In the cache folder, where
            what is found in it is kept beside it.
        whole: reads the whole index, where somebody asks for it after all.
    """

    def __init__(self, file: Path, whole: Callable[[], pd.DataFrame]) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._firsts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._name, self._whole = file.stem, whole
        self._values: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __contains__(self, name: str) -> bool:
        return name in self._batches[0].schema.names

    @cached_property
    def frame(self) -> pd.DataFrame:
        """As `Columns`: read when it is asked for, and held from then on."""
        return self._whole()

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """As `Columns`."""
        numbers, values = self._numbers(name, rows), self._dictionary(name)
        return numbers if values is None else values[numbers]

    def where(self, wanted: Wanted) -> np.ndarray:
        """As `Columns`: found once on a machine, and mapped from then on."""
        question = ";".join(f"{name}={','.join(sorted(values))}" for name, values in sorted(wanted.items()))
        named = hashlib.sha256(question.encode()).hexdigest()[:16]
        path = cached_file(f"{self._name}-{named}.npy", lambda path: self._write(wanted, path))
        rows: np.ndarray = np.load(path, mmap_mode="r")
        return rows

    def distinct(self, name: str, rows: np.ndarray | None = None) -> set[Any]:
        """As `Columns`."""
        if rows is None:
            parts = (_stored(batch, name) for batch in self._batches)
        else:
            parts = (self._numbers(name, rows[first : first + BATCH]) for first in range(0, len(rows), BATCH))
        numbers, values = np.unique(np.concatenate([np.unique(part) for part in parts])), self._dictionary(name)
        return set((numbers if values is None else values[numbers]).tolist())

    def _numbers(self, name: str, rows: np.ndarray) -> np.ndarray:
        """What is stored of a column: its numbers, or those of its values in the dictionary."""
        rows = np.asarray(rows)
        taken = np.empty(len(rows), _stored(self._batches[0], name).dtype)
        batch = np.searchsorted(self._firsts, rows, side="right") - 1
        for number in np.unique(batch):
            here = batch == number
            taken[here] = _stored(self._batches[number], name)[rows[here] - self._firsts[number]]
        return taken

    def _dictionary(self, name: str) -> np.ndarray | None:
        """The strings of a column, by number; None of a column of numbers."""
        column = self._batches[0].column(name)
        if not pa.types.is_dictionary(column.type):
            return None
        if name not in self._values:
            # Every batch has the whole dictionary, whatever it was when it was written.
            self._values[name] = np.array(column.dictionary.to_pylist(), object)
        return self._values[name]

    def _fitting(self, wanted: Wanted) -> Iterator[np.ndarray]:
        """Rows that are asked for, batch by batch."""
        numbers = {}
        for name, values in wanted.items():
            known = self._dictionary(name)
            assert known is not None, f"{name} holds numbers; columns of strings are asked for"
            numbers[name] = np.flatnonzero(np.isin(known, list(values)))
        for first, batch in zip(self._firsts, self._batches, strict=False):
            fit = np.full(batch.num_rows, True)
            for name, allowed in numbers.items():
                fit &= np.isin(_stored(batch, name), allowed)
            yield first + np.flatnonzero(fit)

    def _write(self, wanted: Wanted, path: Path) -> None:
        count = sum(len(rows) for rows in self._fitting(wanted))
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (count,)})
            for rows in self._fitting(wanted):
                file.write(rows.astype("<i8").tobytes())


class ChosenColumns:
    """Those of some rows of other columns, which are numbered anew, as a set of one domain has them.

    Args:
        columns: what they are of.
        chosen: what the rows hold there; a row's label is that of one of them.
        names: what columns are called there, where they have another name here.
        whole: makes the index of these rows.
    """

    def __init__(
        self, columns: Columns, chosen: Wanted, names: Mapping[str, str], whole: Callable[[], pd.DataFrame]
    ) -> None:
        self._columns, self._chosen, self._names, self._whole = columns, chosen, names, whole
        self._rows = columns.where(chosen)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: str) -> bool:
        return self._names.get(name, name) in self._columns

    @cached_property
    def frame(self) -> pd.DataFrame:
        """As `Columns`."""
        return self._whole()

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """As `Columns`."""
        values = self._columns.take(self._names.get(name, name), self._rows[rows])
        return np.searchsorted(self._rows, values) if name == "label_row" else values

    def where(self, wanted: Wanted) -> np.ndarray:
        """As `Columns`."""
        there = {self._names.get(name, name): values for name, values in wanted.items()}
        return np.searchsorted(self._rows, self._columns.where({**there, **self._chosen}))

    def distinct(self, name: str, rows: np.ndarray | None = None) -> set[Any]:
        """As `Columns`."""
        return self._columns.distinct(self._names.get(name, name), self._rows if rows is None else self._rows[rows])


def _stored(batch: pa.RecordBatch, name: str) -> np.ndarray:
    column = batch.column(name)
    own = column.indices if pa.types.is_dictionary(column.type) else column
    numbers: np.ndarray = own.to_numpy(zero_copy_only=True)
    return numbers
