"""Real and synthetic tiles as one set to train on: which tiles of each, and the mixed set that points to them.

A mixed set has an index and a manifest like any other, but no pixels: its tiles stay in its parts, the sets that it was
mixed from. Part 0 is the real set.

Which tiles are taken depends on the sets and the fold alone. Tiles are taken in an order in which every beginning is
spread evenly over the set, so a quarter of the tiles covers the tissue as the half does, and is contained in it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.storage import Options, absolute, exists, join
from metgan_dist.tiles.organs import organ_names
from metgan_dist.tiles.tile_set import MANIFEST, SPLITS, TileSet

# Multiples of it, modulo 1, leave at most three different gaps however many there are (Steinhaus), and never repeat.
GOLDEN = (math.sqrt(5) - 1) / 2
UNUSED = "unused"


def spread_order(count: int, start: float = 0.0) -> np.ndarray:
    """The numbers 0..count-1 in an order whose every beginning is spread evenly over them.

    `start` in [0, 1) says where the order begins, which then goes round: beginnings no longer than the distance between
    two starts, as a fraction of `count`, have no number in common.
    """
    return np.roll(np.argsort(np.arange(count) * GOLDEN % 1, kind="stable"), -round(start * count))


def chosen_real(tiles: TileSet, rows: np.ndarray, amount: float, field: str) -> np.ndarray:
    """Rows to train on out of the real training rows `rows` of a fold, ascending.

    Args:
        amount: up to 1 a fraction of the rows, above 1 a number of them. Tiles with and without foreground are taken in
            equal proportion.
        field: of the recipe, for messages.

    Raises UserError when there are fewer, or the number is not whole.
    """
    if amount > 1 and amount != round(amount):
        raise UserError(f"{field}: {amount:g}: above 1 it is a number of tiles, which must be whole")
    count = round(amount * len(rows)) if amount <= 1 else round(amount)
    if count > len(rows):
        raise UserError(f"{field}: {count} real tiles asked, the fold has {len(rows)} to train on; ask for fewer")
    empty = tiles.index["foreground"].to_numpy()[rows] == 0
    by_foreground = rows[np.argsort(empty, kind="stable")]
    return np.sort(by_foreground[spread_order(len(rows))[:count]])


def chosen_synthetic(
    sets: Sequence[TileSet], usable: Sequence[np.ndarray], count: int, start: float, field: str
) -> list[np.ndarray]:
    """Rows of each synthetic set, `count` in all in equal parts, each ascending.

    Args:
        usable: rows of each set that may be taken, ascending.
        start: in [0, 1), different for every fold, so that folds take different tiles where there are enough.
        field: of the recipe, for messages.

    Raises UserError when a set has fewer tiles than its part.
    """
    chosen = []
    for number, (part, rows) in enumerate(zip(sets, usable, strict=True)):
        share = count // len(sets) + (number < count % len(sets))
        if share > len(rows):
            left_out = len(part.positions("train")) - len(rows)
            why = f" for this fold: {left_out} more are made from tiles that validate it" if left_out else ""
            raise UserError(
                f"{field}: {share} of {count} synthetic tiles are to come from {part.uri}, which has {len(rows)}{why}; "
                "ask for fewer, or synthesise more"
            )
        chosen.append(np.sort(rows[spread_order(len(rows), start)[:share]]))
    return chosen


def write_mixture(
    folder: str,
    real: TileSet,
    train_rows: np.ndarray,
    val_rows: np.ndarray,
    synthetic: Sequence[TileSet],
    synthetic_rows: Sequence[np.ndarray],
    options: Options | None,
) -> TileSet:
    """Mix tiles of several sets into one that trains on them, or open the mixture if it is there already.

    Args:
        folder: where index and manifest go.
        real: gives data, tiles and normalisation sections of the manifest, and test and unseen tiles.
        train_rows, val_rows: rows of `real` to train on and to choose the best checkpoint with.
        synthetic: further sets.
        synthetic_rows: rows of each to train on.

    Every tile of every set has its row, with split "unused" where it is neither trained on nor held out. Raises
    UserError when the sets do not fit together, when no tile to train on holds foreground, and when the folder holds
    another mixture.
    """
    for part in synthetic:
        check_fits(part, real)
    for part in (real, *synthetic):
        if part.parts:
            raise UserError(f"{part.uri}: mixed tiles; name the sets that they were mixed from")
    folder, sets = absolute(folder), [real, *synthetic]
    taken = [np.sort(rows) for rows in (train_rows, *synthetic_rows)]
    index = _joint_index(sets, taken, val_rows)
    training = index["split"] == "train"
    if not (index.loc[training, "foreground"] > 0).any():
        raise UserError(
            f"{real.uri}: none of the {int(training.sum())} tiles to train on holds a labelled pixel; take more tiles"
        )
    parts = [
        {"uri": part.uri, "digest": part.digest, "train": len(rows), **({"domain": part.domain} if part.domain else {})}
        for part, rows in zip(sets, taken, strict=True)
    ]
    chosen = {"parts": parts, "train": [rows.tolist() for rows in taken], "val": np.sort(val_rows).tolist()}
    identity = hashlib.sha256(json.dumps(chosen).encode()).hexdigest()
    if exists(join(folder, MANIFEST), options):
        return _existing(folder, identity, options)
    manifest = {
        "fingerprint": identity,
        **{name: real.manifest[name] for name in ("roles", "tile_shape", "data", "tiles", "normalisation", "volumes")},
        "organs": organ_names(index),
        "counts": {split: int((index["split"] == split).sum()) for split in SPLITS},
        "parts": parts,
    }
    return TileSet.write(folder, index, manifest, options)


def check_fits(part: TileSet, real: TileSet) -> None:
    """UserError unless tiles of `part` can be trained on beside those of `real`: channels, classes and shape."""

    def facts(tiles: TileSet) -> dict[str, Any]:
        """What must be equal, by the name that the error gives it."""
        names = ("anatomy", "tumour", "classes")
        own = {f"data.{name}": tiles.manifest["data"][name] for name in names}
        return {"channels": sorted(tiles.manifest["roles"]), "tile shape": list(tiles.shape), **own}

    theirs, ours = facts(part), facts(real)
    for name, value in theirs.items():
        if value != ours[name]:
            raise UserError(
                f"{part.uri}: {name} {value!r} does not fit the real tiles {real.uri}, which have {ours[name]!r}; "
                "synthesise from tiles cut alike"
            )


def _joint_index(sets: Sequence[TileSet], taken: Sequence[np.ndarray], val_rows: np.ndarray) -> pd.DataFrame:
    """The indices below one another, with splits as they are in the mixture, and rows of labels counted on."""
    frames, first = [], 0
    for number, (part, rows) in enumerate(zip(sets, taken, strict=True)):
        frame = part.index.copy()
        split = frame["split"].where(frame["split"].isin(["test", "unseen"]) & (number == 0), UNUSED).to_numpy(object)
        split[rows] = "train"
        if number == 0:
            split[val_rows] = "val"
        frame["split"] = split
        frame["label_row"] += first
        frame["part"] = number
        frames.append(frame)
        first += len(frame)
    return pd.concat(frames, ignore_index=True)


def _existing(folder: str, identity: str, options: Options | None) -> TileSet:
    there = TileSet.open(folder, options)
    if there.manifest.get("fingerprint") != identity:
        raise UserError(
            f"{folder}: holds a mixture of other tiles; the sets have changed since, start under another tracking.run"
        )
    return there
