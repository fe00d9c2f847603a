"""Which tile of a synthetic set is made from what: a table that follows from the source tiles and the recipe alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.recipe import Synthesis
from metgan_dist.tiles.tile_set import TileSet

KINDS = ("real", "merged", "transformed", "drawn")
# Each column draws from a stream of its own, so that the first tiles do not change when more are asked for.
_KIND, _LABEL, _HOW_MANY, _OTHERS, _ANATOMY, _SEED = range(6)


@dataclass(frozen=True)
class Pool:
    """Row numbers of a tile set, sorted by organ; group `o` is `rows[starts[o]:starts[o] + sizes[o]]`.

    Without regard to organs all rows are one group.
    """

    rows: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    @staticmethod
    def of(rows: np.ndarray, organs: np.ndarray, count: int) -> Pool:
        """`organs`: the group of each row, 0 to count - 1."""
        order = np.argsort(organs, kind="stable")
        sizes = np.bincount(organs, minlength=count)
        return Pool(rows[order], np.cumsum(sizes) - sizes, sizes)

    def groups(self) -> np.ndarray:
        """The group of each row."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def draw(self, group: int, random: np.random.Generator) -> int:
        """A random row of a group, or of all for -1."""
        start, size = (0, len(self.rows)) if group < 0 else (self.starts[group], self.sizes[group])
        return int(self.rows[start + random.integers(size)])


@dataclass(frozen=True)
class Sources:
    """Training tiles that give anatomy and those that give labels, by organ where that matters."""

    anatomies: Pool
    labels: Pool

    @staticmethod
    def of(tiles: TileSet, settings: Synthesis) -> Sources:
        """Only tiles of split "train" give anything; labels come from those with foreground.

        Raises UserError for a volume in `synthesis.anatomies` that is unknown or has no training tiles, for `organs:
        same` without organs, and where no label, or no anatomy of any label's organ, is left.
        """
        index = tiles.index
        training = (index["split"] == "train").to_numpy()
        check_anatomies(tiles, settings, training)
        chosen = training & (index["volume"].isin(settings.anatomies).to_numpy() if settings.anatomies else True)
        if not chosen.any():
            raise UserError(f"synthesis.tiles: {tiles.uri}: no training tiles to take anatomy from")
        labelled = training & (index["foreground"] > 0).to_numpy()
        real = settings.real + settings.merged + settings.transformed > 0
        if real and ("label" not in tiles.manifest["roles"] or not labelled.any()):
            raise UserError(
                f"synthesis.tiles: {tiles.uri}: none of {int(training.sum())} training tiles holds a labelled "
                "pixel, so there is no label to impose; use other tiles, or only drawn labels"
            )
        codes, organs = np.zeros(len(index), np.int64), 1
        if settings.organs == "same":
            codes, names = pd.factorize(index["organ"].fillna("").to_numpy(), sort=True)
            organs = len(names)
            if names.tolist() == [""]:
                raise UserError(f"synthesis.organs: same: {tiles.uri}: these tiles name no organ; use any")
            labelled &= np.isin(codes, codes[chosen])
        anatomies, labels = (Pool.of(np.flatnonzero(mask), codes[mask], organs) for mask in (chosen, labelled))
        if real and not len(labels.rows):
            raise UserError("synthesis.organs: same: no label is of an organ that has anatomy; use any")
        if _shares(settings)[KINDS.index("merged")] and labels.sizes.max() < 2:
            raise UserError("synthesis.merged: there is only one label to merge; set it to 0")
        return Sources(anatomies, labels)


def check_anatomies(tiles: TileSet, settings: Synthesis, training: np.ndarray) -> None:
    """UserError for a volume in `synthesis.anatomies` that is unknown, or of which no tile is `training` (rows,)."""
    volumes = tiles.index["volume"]
    for name in settings.anatomies:
        of_volume = (volumes == name).to_numpy()
        if not of_volume.any():
            known = ", ".join(str(volume) for volume in dict.fromkeys(volumes))
            raise UserError(f"synthesis.anatomies: no volume {name!r} in {tiles.uri}; there are {known}")
        if not (of_volume & training).any():
            splits = ", ".join(sorted(set(tiles.index["split"][of_volume])))
            raise UserError(
                f"synthesis.anatomies: volume {name!r} has no training tiles ({splits} only); images made from "
                "held-out tiles would spoil every later test on them"
            )


def plan_tiles(sources: Sources, settings: Synthesis, drawings: int = 0) -> pd.DataFrame:
    """The table of all tiles, `synthesis.samples` rows for each of `synthesis.count` labels.

    Columns: kind (number in KINDS); anatomy (row of the source tiles) and group, of the anatomies that would do as well
    (-1: all); source_0, source_1, ... (rows that give labels, or for drawn ones the number of the drawing; -1: none);
    seed, of all that is drawn for the label; sample.
    Always the same for the same source tiles and settings; `count` only cuts it off.
    """
    count, most = settings.count, settings.merge_most
    shares = _shares(settings)
    last = int(np.flatnonzero(shares)[-1])
    kind = np.minimum(np.searchsorted(np.cumsum(shares), _uniform(settings, _KIND), side="right"), last)
    merged, drawn = kind == KINDS.index("merged"), kind == KINDS.index("drawn")
    first, group = _first_labels(sources.labels, _uniform(settings, _LABEL), merged)
    sizes = sources.labels.sizes[group] if len(sources.labels.rows) else np.ones(count, np.int64)
    wanted = 2 + np.floor(_uniform(settings, _HOW_MANY) * (most - 1)).astype(np.int64)
    how_many = np.where(merged, np.minimum(wanted, sizes), 1)
    chosen = np.full((count, most), -1, np.int64)
    places = _distinct(first - sources.labels.starts[group], sizes, _uniform(settings, _OTHERS, most - 1))
    for number in range(most):
        here = ~drawn & (how_many > number)
        chosen[here, number] = sources.labels.rows[(sources.labels.starts[group] + places[:, number])[here]]
    chosen[drawn, 0] = np.floor(_uniform(settings, _LABEL)[drawn] * drawings).astype(np.int64)
    group = np.where(drawn, -1, group)  # a drawing is of no organ
    anatomy = _anatomies(sources.anatomies, group, _uniform(settings, _ANATOMY))
    seed = _stream(settings, _SEED).integers(0, 2**63 - 1, count)
    table = pd.DataFrame({"kind": kind.astype(np.int8), "anatomy": anatomy, "group": group})
    for number in range(most):
        table[f"source_{number}"] = chosen[:, number]
    table["seed"] = seed
    table = table.loc[np.repeat(np.arange(count), settings.samples)].reset_index(drop=True)
    table["sample"] = np.tile(np.arange(settings.samples), count)
    return table


def _shares(settings: Synthesis) -> np.ndarray:
    """The fraction of all labels that each of KINDS has."""
    others = settings.real + settings.merged + settings.drawn
    rest = (1 - settings.transformed) / others if others else 0.0
    return np.array([rest * settings.real, rest * settings.merged, settings.transformed, rest * settings.drawn])


def _first_labels(labels: Pool, uniform: np.ndarray, merged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position in the pool and group of the (first) label of each draw; merging needs a group of two or more."""
    if not len(labels.rows):
        return np.zeros(len(uniform), np.int64), np.zeros(len(uniform), np.int64)
    groups = labels.groups()
    mergeable = np.flatnonzero(labels.sizes[groups] > 1)
    first = np.floor(uniform * len(labels.rows)).astype(np.int64)
    if len(mergeable):
        first = np.where(merged, mergeable[np.floor(uniform * len(mergeable)).astype(np.int64)], first)
    return first, groups[first]


def _distinct(first: np.ndarray, sizes: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Different numbers below `sizes`, drawn one after the other, the given one first; (count, 1 + more)."""
    chosen = first[:, np.newaxis]
    for number in range(uniform.shape[1]):
        left = np.maximum(sizes - 1 - number, 1)
        following = np.floor(uniform[:, number] * left).astype(np.int64)
        # The k-th of those that are left, counted past the ones that are taken, in ascending order.
        for taken in np.sort(chosen, axis=1).T:
            following += following >= taken
        chosen = np.column_stack([chosen, following])
    return chosen


def _anatomies(pool: Pool, group: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    starts = np.where(group < 0, 0, pool.starts[group])
    sizes = np.where(group < 0, len(pool.rows), pool.sizes[group])
    return pool.rows[starts + np.floor(uniform * sizes).astype(np.int64)]


def _stream(settings: Synthesis, column: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([settings.seed, column]))


def _uniform(settings: Synthesis, column: int, width: int | None = None) -> np.ndarray:
    return _stream(settings, column).random(settings.count if width is None else (settings.count, width))
