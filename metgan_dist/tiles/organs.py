"""The organs of a tile set by number: the list that its manifest holds, and the tiles' places in such a list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from metgan_dist.tiles.columns import Columns, HeldColumns

UNKNOWN = -1


def organ_names(index: pd.DataFrame | Columns) -> list[str]:
    """The organs that an index names, in alphabetical order; none where it names none."""
    columns = HeldColumns(index) if isinstance(index, pd.DataFrame) else index
    if "organ" not in columns:
        return []
    return sorted({name for name in columns.distinct("organ") if isinstance(name, str)} - {""})


def organ_numbers(organs: Iterable[str | None], names: Sequence[str]) -> np.ndarray:
    """int64 (N,): the place of each organ in `names`; UNKNOWN for one that is not there, and for none."""
    places = {name: place for place, name in enumerate(names)}
    return np.array([places.get(organ or "", UNKNOWN) for organ in organs], np.int64)
