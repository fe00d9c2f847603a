"""Whether synthetic tiles may be trained on before a score on test tiles: nothing behind them has seen those."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.lineage.records import PARTS, SYNTHESIS, Records
from metgan_dist.lineage.volumes import KnownVolume, boxes, extent, known_volumes
from metgan_dist.lineage.walk import label_origins
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.tracking import LoggedRun

HELD_OUT = ("test", "unseen")
TRAINED_ON = ("train", "val")
PAIRS = 1 << 20  # boxes compared at once


@dataclass(frozen=True)
class Use:
    """Tiles that went into a synthetic set: `how`, their index rows, the volumes that these are of."""

    how: str
    rows: pd.DataFrame
    volumes: dict[str, KnownVolume]


def check_untouched(field: str, test: TileSet, synthetic: TileSet, tracking_uri: str | None = None) -> None:
    """Refuse synthetic tiles behind which anything has seen the test or unseen tiles of `test`.

    What must not touch them: the anatomy of the synthetic tiles (dropped ones too), the tiles that gave labels, and
    the training and validation tiles of the generator and of a model that it started from; through mixed and synthetic
    sets that these were trained on, theirs. Touching is a common voxel of the same volume (see `KnownVolume.same`), or
    the same volume on another grid, where voxels cannot be compared. A segmentor of the generator, of the gate or a
    judge is no reason, whatever it was trained on; nor is a label from a file, which lies in no volume.

    Every link is verified on the way: manifests and indices against the digests that MLflow has, the checkpoint's
    SHA-256, the runs that made both.

    Args:
        field: of the recipe, or flag, that named the set; begins the message.
        test: the set whose test tiles give the scores.
        synthetic: what `synthesize.py` wrote.
        tracking_uri: MLflow store to ask; the stores that runs on disk name are asked after it.

    Raises UserError in one line that names the link.
    """
    records = Records([tracking_uri] if tracking_uri else [], synthetic.options)
    held_out = test.index[test.index["split"].isin(HELD_OUT)]
    volumes = known_volumes(test.manifest)
    try:
        for use in _uses_of_synthesis(synthetic, records):
            if touched := _touched(use, held_out, volumes):
                raise UserError(
                    f"{use.how} show test tiles of {test.uri}: {touched}; synthesise with a generator and tiles "
                    "that share these test tiles"
                )
    except UserError as error:
        raise UserError(f"{field}: {error}") from error


def _uses_of_synthesis(synthetic: TileSet, records: Records) -> Iterator[Use]:
    """Tiles behind a synthetic set; UserError where a link does not hold."""
    name = f"synthetic tiles {synthetic.uri}"
    if SYNTHESIS not in synthetic.manifest:
        raise UserError(f"{synthetic.uri}: tiles that were not synthesised; name a folder that synthesize.py wrote")
    made = synthetic.manifest[SYNTHESIS]
    records.tiles(synthetic.uri, synthetic.digest, name)
    records.generated_by(synthetic, name)
    source = records.tiles(made["tiles"]["uri"], made["tiles"]["digest"], f"source of {name}")
    volumes = known_volumes(source.manifest)
    yield Use(f"anatomies of {name}", synthetic.index, volumes)
    rows, _ = label_origins(synthetic)
    yield Use(f"labels of {name}", source.index.iloc[sorted(set(rows))], volumes)
    model, link = made["model"], f"generator of {name}"
    records.checkpoint(model["uri"], model["sha256"], link)
    yield from _uses_of_model(records.trained_by(model["uri"], model["run"], link), link, records)


def _uses_of_model(run: LoggedRun, link: str, records: Records) -> Iterator[Use]:
    """Tiles that a model's training has seen, and those behind the weights that it started from."""
    start = (records.folder_of(run, link) or {}).get("start_from")
    if start is not None:
        before = f"start of the {link}"
        records.checkpoint(start["uri"], start["sha256"], before)
        yield from _uses_of_model(records.trained_by(start["uri"], start["run"], before), before, records)
    for logged in records.training_data(run, link):
        data = f"training data of run {run.name} ({run.id}), the {link},"
        yield from _uses_of_training(records.tiles(logged.uri, logged.digest, data), data, records)


def _uses_of_training(tiles: TileSet, how: str, records: Records) -> Iterator[Use]:
    """Tiles that a training on a set has seen, of whatever kind the set is."""
    trained = tiles.index[tiles.index["split"].isin(TRAINED_ON)]
    if SYNTHESIS in tiles.manifest:
        yield from _uses_of_synthesis(tiles, records)
        return
    for number, part in enumerate(tiles.manifest.get(PARTS, [])):
        own = records.tiles(part["uri"], part["digest"], f"part of mixed tiles {tiles.uri}")
        if SYNTHESIS in own.manifest:
            yield from _uses_of_synthesis(own, records)
        else:
            yield Use(how, trained[trained["part"] == number], known_volumes(own.manifest))
    if PARTS not in tiles.manifest:
        yield Use(how, trained, known_volumes(tiles.manifest))


def _touched(use: Use, held_out: pd.DataFrame, volumes: dict[str, KnownVolume]) -> str:
    """Where tiles show what is held out, in words; "" where they do not."""
    tests = dict(list(held_out.groupby("volume", sort=False)))
    for name, rows in use.rows.groupby("volume", sort=False):
        mine = use.volumes[str(name)]
        for other, theirs in tests.items():
            if not mine.same(volumes[str(other)]):
                continue
            alias = "" if name == other else f" ({str(other)!r} there)"
            if mine.shape != volumes[str(other)].shape:
                return f"volume {mine.id!r}{alias}, on another grid"
            inside = overlapping(boxes(rows), boxes(theirs))
            if inside.any():
                return f"volume {mine.id!r}{alias}, {extent(rows[inside])}"
    return ""


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
