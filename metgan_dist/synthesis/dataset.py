"""A synthetic set is an ordinary tile set whose index says where each tile came from, and whose manifest says how.

Nothing in it depends on when, where to or by how many workers it was made: the same seed gives the same digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.recipe import channel_names
from metgan_dist.storage import Options
from metgan_dist.synthesis.gate import KEPT, REJECTED, splits
from metgan_dist.synthesis.lesions import Lesions
from metgan_dist.synthesis.replica import LEVELS
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.volumes.layers import Layer, layers_of

ORIGIN = ("source_tile", "kind", "label_sources", "transform", "seed", "sample", "foreground")
SOURCE_SECTIONS = ("tile_shape", "data", "tiles", "normalisation", "padding", "organs", "volumes")


def pixels_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a shard's arrays: names, types, shapes and values."""
    digest = hashlib.sha256()
    for role in sorted(arrays):
        pixels = arrays[role]
        digest.update(f"{role} {pixels.dtype.str} {pixels.shape}\n".encode())
        digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def marker_of(
    origins: Sequence[Mapping[str, Any]], label: np.ndarray, tumour: np.ndarray, dice: np.ndarray
) -> dict[str, Any]:
    """What a shard's marker says of its tiles: columns of the index, and their lesions.

    How bright these are is told of `tumour`, the first channel (N, [D,] H, W).
    """
    image = tumour.astype(np.float32) * np.float32(2 / LEVELS) - 1
    found = Lesions.join([Lesions.of(*tile) for tile in zip(label, image, strict=True)])
    columns = {name: [origin[name] for origin in origins] for name in ORIGIN}
    columns["gate_dice"] = [None if np.isnan(value) else float(value) for value in dice]
    lesions = {
        "per_tile": found.per_tile.tolist(),
        "sizes": found.sizes.tolist(),
        "intensities": found.intensities.round(5).tolist(),
    }
    return {"columns": columns, "lesions": lesions}


def finish_set(
    folder: str,
    source: TileSet,
    markers: Mapping[str, Mapping[str, Any]],
    synthesis: Mapping[str, Any],
    tumour: str | list[str],
    gate: float,
    fingerprint: str,
    options: Options,
) -> TileSet:
    """Write index.parquet, then manifest.json, and open the set.

    Args:
        folder: where the shards are.
        source: the tiles that gave anatomy and labels.
        markers: of all shards, by name.
        synthesis: the manifest's section on how the set was made.
        tumour: the generated channels.
        gate: Dice that a pair must reach to be of split "train".
        fingerprint: of everything that the set was made from.
    """
    names = sorted(markers)
    layers = layers_of("tumour", max(1, len(channel_names(tumour))))
    index = _index(source, {name: markers[name]["columns"] for name in names}, layers, gate)
    precisions = sorted({markers[name]["precision"] for name in names})
    manifest = {
        "fingerprint": fingerprint,
        "roles": ["anatomy", "tumour", "label"],
        **{section: source.manifest[section] for section in SOURCE_SECTIONS if section in source.manifest},
        # The source may have anatomy alone.
        "data": source.manifest["data"] | {"tumour": tumour},
        "counts": _counts(index),
        "synthesis": {**synthesis, "precision": precisions},
    }
    return TileSet.write(folder, index, manifest, options, {name: markers[name]["digest"] for name in names})


def _index(
    source: TileSet, columns: Mapping[str, Mapping[str, Any]], tumour: Sequence[Layer], gate: float
) -> pd.DataFrame:
    """The anatomy tiles' rows of the source's index, with what is the synthetic tiles' own in its place."""
    own = pd.concat(
        [
            pd.DataFrame(shard).assign(shard=name, position=np.arange(len(shard["seed"])))
            for name, shard in columns.items()
        ],
        ignore_index=True,
    )
    index = source.index.iloc[own["source_tile"].to_numpy()].reset_index(drop=True)
    dice = pd.to_numeric(own.pop("gate_dice")).astype(np.float64)
    index["split"], index["fold"] = splits(dice.to_numpy(), gate), -1
    for layer in tumour:
        index[f"{layer}_low"], index[f"{layer}_high"] = 0.0, float(LEVELS)
    index["label_row"] = np.arange(len(index))
    for name in own.columns:
        index[name] = own[name]
    index["gate_dice"] = dice
    return index


def _counts(index: pd.DataFrame) -> dict[str, Any]:
    kept = index[index["split"] == KEPT]
    return {
        "planned": len(index),
        "train": len(kept),
        "val": 0,
        "test": 0,
        "unseen": 0,
        "rejected": int((index["split"] == REJECTED).sum()),
        "with_foreground": {KEPT: int((kept["foreground"] > 0).sum())},
        "kinds": {str(kind): int(count) for kind, count in sorted(kept["kind"].value_counts().items())},
    }
