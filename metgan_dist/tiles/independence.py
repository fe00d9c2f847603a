"""Which tiles show different places, so that a paired test or a bootstrap may count them as independent.

Tiles of one volume overlap, and neighbouring planes show nearly the same tissue. What counts once is therefore a whole
volume (all volumes of a patient, where the data set names patients), or, where there is one alone, a block of it:

    along each axis, blocks begin where the first tile does, and then where the next tile begins that is at least the
    edge of a tile away, in the volume's unit of length where its spacing is known, else in voxels (along the view also
    the depth of a projection away). A tile belongs to the block in which its centre lies.

Tiles that reach from one block into another stay out of tests: those that are left share no voxel with a tile of
another block. Of separate images each is a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from metgan_dist.tiles.geometry import AXES, in_plane
from metgan_dist.tiles.splits import group_of
from metgan_dist.tiles.tile_set import TileSet


@dataclass(frozen=True)
class Units:
    """The independent units of some tiles.

    Attributes:
        table: by row number of the tile set, the columns volume, unit (its name), alone (whether the tile shares no
            voxel with another unit).
        kind: what units are: "volumes", "patients", "patients and volumes", or "blocks".
    """

    table: pd.DataFrame
    kind: str

    @property
    def count(self) -> int:
        """Units with a tile that can be tested."""
        return int(self.table.loc[self.table["alone"], "unit"].nunique())

    def __str__(self) -> str:
        volumes = self.table["volume"].nunique()
        number = f"{self.count} {self.kind if self.count != 1 else self.kind.removesuffix('s')}"
        return f"{number} of {volumes} volume(s)" if self.kind == "blocks" else number


def independent_units(tiles: TileSet, rows: np.ndarray, group: Literal["auto", "volume", "block"] = "auto") -> Units:
    """The units of the tiles `rows` of a set; `auto`: volumes (patients) where there are two or more, else blocks."""
    own = tiles.index.iloc[rows]
    groups = group_of(own)
    if group == "volume" or (group == "auto" and groups.nunique() > 1):
        kind = " and ".join(sorted({f"{name.split()[0]}s" for name in groups}))
        return Units(pd.DataFrame({"volume": own["volume"], "unit": groups, "alone": True}), kind)
    spacing = {volume["id"]: volume.get("spacing") for volume in tiles.manifest["volumes"]}
    blocks = pd.concat([_blocks(part, spacing[name]) for name, part in own.groupby("volume", sort=False)])
    return Units(blocks.loc[own.index], "blocks")


def _blocks(tiles: pd.DataFrame, spacing: Sequence[float] | None) -> pd.DataFrame:
    """The columns of `Units.table` for the tiles of one volume."""
    names, alone = tiles["volume"].astype(str), np.ones(len(tiles), dtype=bool)
    for axis, edge in zip(AXES, _edges(tiles, spacing), strict=True):
        low, high = tiles[f"{axis}0"].to_numpy(), tiles[f"{axis}1"].to_numpy()
        borders = _borders(low, edge)
        first, centre, last = (np.searchsorted(borders, at, "right") for at in (low, (low + high) / 2, high - 1))
        names = names + [f" {axis}{k}" for k in centre]
        alone &= first == last
    return pd.DataFrame({"volume": tiles["volume"], "unit": names, "alone": alone})


def _borders(low: np.ndarray, edge: float) -> list[int]:
    """Where blocks begin along an axis: at tiles, so that each has one, and at least an edge after each other."""
    borders: list[int] = []
    for start in np.unique(low).tolist():
        if not borders or start >= borders[-1] + edge:
            borders.append(start)
    return borders


def _edges(tiles: pd.DataFrame, spacing: Sequence[float] | None) -> list[float]:
    """Voxels of a block along z, y, x, at least."""
    if (tiles["name"] != "").any():  # separate images: nothing lies between two of them
        return [1, np.inf, np.inf]
    voxel = spacing or (1.0, 1.0, 1.0)
    extent = [float((tiles[f"{axis}1"] - tiles[f"{axis}0"]).max()) for axis in AXES]
    in_planes = {axis for view in tiles["view"].unique() for axis in in_plane(view)}
    longest = max(extent[axis] * voxel[axis] for axis in in_planes)
    return [max(own, longest / size) for own, size in zip(extent, voxel, strict=True)]
