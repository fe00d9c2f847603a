"""Which tiles show the same tissue, and which synthetic tiles were made from tissue that others show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.lineage.records import INSERTED_INTO, LABELLED, MASKS, MEASURED, SEEN, SYNTHESIS
from metgan_dist.lineage.volumes import KnownVolume, boxes, known_volumes
from metgan_dist.tiles.splits import group_of
from metgan_dist.tiles.tile_set import TileSet

PAIRS = 1 << 20  # boxes compared at once


@dataclass(frozen=True)
class Tissue:
    """Index rows of tiles, and the volumes that these are of."""

    rows: pd.DataFrame
    volumes: dict[str, KnownVolume]

    @staticmethod
    def of(tiles: TileSet, rows: np.ndarray) -> Tissue:
        """Some rows (by number) of a set that is not mixed."""
        return Tissue(tiles.index.iloc[rows], known_volumes(tiles.manifest))

    def touching(self, other: Tissue) -> np.ndarray:
        """Which of the tiles share a voxel with any of the others (see `meetings`); bool (N,)."""
        found = np.zeros(len(self.rows), bool)
        for meeting in meetings(self, other):
            found[meeting.places] = True
        return found


@dataclass(frozen=True)
class Meeting:
    """Tiles, by their places among all, that show what others show of a volume: `mine`, which is `other` there."""

    mine: KnownVolume
    other: str
    places: np.ndarray
    comparable: bool


def meetings(these: Tissue, others: Tissue) -> Iterator[Meeting]:
    """Where tiles show tissue that others show, by volume.

    They do where they have a voxel of the same volume (see `KnownVolume.same`) in common; or when the same volume lies
    on another grid, where voxels cannot be compared: then all of its tiles are said to.
    """
    theirs = dict(list(others.rows.groupby("volume", sort=False)))
    for name, rows in these.rows.reset_index(drop=True).groupby("volume", sort=False):
        mine = these.volumes[str(name)]
        for other, tiles in theirs.items():
            known = others.volumes[str(other)]
            if not mine.same(known):
                continue
            comparable = mine.shape == known.shape
            inside = overlapping(boxes(rows), boxes(tiles)) if comparable else np.ones(len(rows), bool)
            if inside.any():
                yield Meeting(mine, str(other), rows.index.to_numpy()[inside], comparable)


def overlapping(these: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of the boxes (N, 3, 2) share a voxel with any of the others (M, 3, 2); bool (N,)."""
    others = np.unique(others, axis=0)
    whole = np.stack([others[:, :, 0].min(axis=0), others[:, :, 1].max(axis=0)], axis=-1)[None]
    found = _meet(these, whole)[:, 0]
    # Far away is known at once; what is left is compared box by box.
    near = np.flatnonzero(found)
    step = max(1, PAIRS // len(others))
    for first in range(0, len(near), step):
        part = near[first : first + step]
        found[part] = _meet(these[part], others).any(axis=1)
    return found


def _meet(these: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each of (N, 3, 2) and each of (M, 3, 2) share a voxel; bool (N, M)."""
    starts = these[:, None, :, 0] < others[None, :, :, 1]
    ends = others[None, :, :, 0] < these[:, None, :, 1]
    return np.asarray(np.all(starts & ends, axis=2))


def is_translated(synthetic: TileSet) -> bool:
    """Whether synthetic tiles were cut from synthetic volumes, translated or drawn, and not made one by one of an
    anatomy and labels."""
    return "volumes" in synthetic.manifest[SYNTHESIS]


def is_of_volumes(made: Mapping[str, Any]) -> bool:
    """Whether a section `synthesis` is of whole volumes of a data set, with other tumours or labels, not of tiles."""
    return INSERTED_INTO in made or LABELLED in made


def people(translated: TileSet) -> pd.Series:
    """Whom each tile of synthetic volumes shows, as `splits.group_of`: its original's patient, else that volume.

    A drawn mask has no original, and is its own.
    """
    originals = {one["id"]: one.get("volume", one["id"]) for one in translated.manifest[SYNTHESIS]["volumes"]}
    return group_of(translated.index.assign(volume=translated.index["volume"].map(originals)))


def learned_from(translated: TileSet) -> set[str]:
    """Patients whose lesions are in synthetic brains or were measured for them, or the masks' generator has seen.

    As `splits.group_of` names them.
    """
    made = translated.manifest[SYNTHESIS]
    seen = made.get(SEEN) or made.get(MASKS, {}).get(SEEN, {})
    return {f"patient {name}" for one in (seen, made.get(MEASURED, {})) for name in one.get("patients", ())}


class Sources:
    """What gave a synthetic set its anatomies and labels.

    Tiles, or of translated volumes whole originals: these are of another domain, so it is the patient whom they share
    with others. A label from a file lies in no volume. Raises UserError when labels are of tiles that are not there any
    more, or were made again.
    """

    def __init__(self, synthetic: TileSet) -> None:
        self._people = people(synthetic) if is_translated(synthetic) else None
        if self._people is not None:
            return
        self._anatomies = Tissue(synthetic.index, known_volumes(synthetic.manifest))
        labels = [
            (tile, int(origin["tile"]))
            for tile, text in enumerate(synthetic.index["label_sources"])
            for origin in json.loads(text)
            if "tile" in origin
        ]
        self._tile, given = np.array(labels, np.int64).reshape(-1, 2).T
        rows, self._label = np.unique(given, return_inverse=True)
        self._labels = Tissue.of(_source_of(synthetic), rows) if len(rows) else None

    def touching(self, other: Tissue) -> np.ndarray:
        """Which synthetic tiles have an anatomy or a label from tissue, or patients, that others show; bool (N,)."""
        if self._people is not None:
            return self._people.isin(group_of(other.rows)).to_numpy()
        found = self._anatomies.touching(other)
        if self._labels is not None:
            found[self._tile[self._labels.touching(other)[self._label]]] = True
        return found


def _source_of(synthetic: TileSet) -> TileSet:
    made = synthetic.manifest[SYNTHESIS]["tiles"]
    source = TileSet.open(made["uri"], synthetic.options)
    if source.digest != made["digest"]:
        raise UserError(
            f"{source.uri}: not the tiles that gave labels to {synthetic.uri}; its manifest was changed afterwards"
        )
    return source
