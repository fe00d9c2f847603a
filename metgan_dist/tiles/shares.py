"""Parts of training tiles, by patient: what judges alone learn from, shares of the rest, so many cases."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.tiles.splits import ENOUGH_GROUPS, group_of


def kept_for_judges(index: pd.DataFrame, rows: np.ndarray, share: float) -> np.ndarray:
    """Of the training rows of a domain those from which its judge alone learns, by whole patients, spread evenly.

    None of fewer than five patients, who are too few to give any away. Always the same ones, whatever the seed.
    """
    names = _names(index, rows)
    if not share or len(names) < ENOUGH_GROUPS:
        return rows[:0]
    count = max(1, round(share * len(names)))
    return _rows_of(index, rows, [names[int((k + 0.5) * len(names) / count)] for k in range(count)])


def share_of(index: pd.DataFrame, rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A share of training rows by whole patients, at least one; smaller shares are parts of larger ones of a seed."""
    if share >= 1:
        return rows
    names = _names(index, rows)
    return _drawn(index, rows, names, max(1, round(share * len(names))), seed)


def cases_of(index: pd.DataFrame, rows: np.ndarray, count: int, seed: int, field: str) -> np.ndarray:
    """Training rows of `count` patients (volumes, where none are known); fewer are part of more of a seed.

    Raises UserError, beginning with `field` of the recipe, where there are fewer.
    """
    names = _names(index, rows)
    if count > len(names):
        raise UserError(f"{field}: {count} cases asked, but the tiles to train on are of {len(names)}; ask for fewer")
    return _drawn(index, rows, names, count, seed)


def rows_of_method(index: pd.DataFrame, rows: np.ndarray, share: float, kept: float, seed: int) -> np.ndarray:
    """Of the training rows of a domain those of a method: a share of what is not kept for the judges."""
    return share_of(index, np.setdiff1d(rows, kept_for_judges(index, rows, kept)), share, seed)


def _drawn(index: pd.DataFrame, rows: np.ndarray, names: list[str], count: int, seed: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(len(names))[:count]
    return _rows_of(index, rows, [names[k] for k in order])


def _names(index: pd.DataFrame, rows: np.ndarray) -> list[str]:
    return sorted(group_of(index.iloc[rows]).unique())


def _rows_of(index: pd.DataFrame, rows: np.ndarray, names: Collection[str]) -> np.ndarray:
    return rows[group_of(index.iloc[rows]).isin(names).to_numpy()]
