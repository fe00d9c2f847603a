"""What the folds found of each volume, where that is one place: of crops (`scores.volumes`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from metgan_dist.scores.lesions import LesionCounts
from metgan_dist.scores.volumes import VOLUME_SCORES, VolumeCounts, millilitres
from metgan_dist.segmentation.scoring import COUNTS, FoldScores
from metgan_dist.tasks.joined import length_unit, voxel_edges
from metgan_dist.tiles.tile_set import TileSet

COLUMNS = ("fold", "volume", "lesions", "voxels", *VOLUME_SCORES)


def voxel_sizes(tiles: TileSet, rows: np.ndarray) -> dict[str, float]:
    """Millilitres of a voxel by volume, of the tiles `rows`; none where any is not known: no mean mixes both."""
    if len(tiles.shape) != 3 or length_unit(tiles, rows) != "mm":
        return {}
    first = tiles.index.iloc[rows].drop_duplicates("volume")
    return {
        str(name): millilitres(voxel_edges(tiles, first[first["volume"] == name], "zyx")) for name in first["volume"]
    }


def volume_table(scored: FoldScores, voxels: Mapping[str, float]) -> pd.DataFrame:
    """A row a fold and volume: COLUMNS; `lesions` and `voxels` are the true ones, of all classes together.

    voxels: as `voxel_sizes` gives them. Empty where places are planes or slabs: a volume's lesions run through several.
    """
    if (scored.places["unit"] != "volume").any():
        return pd.DataFrame(columns=list(COLUMNS))
    areas = scored.lesions.groupby(["fold", "place"])["area"].sum()
    rows = []
    for (fold, volume), places in scored.places.groupby(["fold", "volume"], sort=True):
        counts = sum(
            (_counts(place, int(areas.get((fold, place["place"]), 0))) for _, place in places.iterrows()), NONE
        )
        facts = {"fold": fold, "volume": volume, "lesions": counts.lesions.found + counts.lesions.missed}
        rows.append({**facts, "voxels": counts.true, **counts.scores(voxels.get(str(volume)))})
    return pd.DataFrame(rows, columns=list(COLUMNS))


NONE = VolumeCounts(0, 0, 0, LesionCounts())


def _counts(place: pd.Series, true: int) -> VolumeCounts:
    overlap, size = (int(place.filter(regex=f"^{part}_").sum()) for part in ("overlap", "size"))
    return VolumeCounts(overlap, size - true, true, LesionCounts(*(int(place[name]) for name in COUNTS)))
