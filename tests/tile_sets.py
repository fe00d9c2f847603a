"""Tile sets written straight to disk, real and synthetic: bright squares on noise, labelled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from metgan_dist.recipe import Data, Tiles
from metgan_dist.tiles.shards import write_shard
from metgan_dist.tiles.tile_set import TileSet

HIGH = 999


def squares(count: int, edge: int, seed: int, classes: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(anatomy and tumour uint16, label uint8) of `count` tiles; every third tile is empty, the others hold 1 to 3."""
    random = np.random.default_rng(seed)
    pixels = {
        role: random.integers(0, HIGH // 3, (count, edge, edge)).astype(np.uint16) for role in ("anatomy", "tumour")
    }
    label = np.zeros((count, edge, edge), np.uint8)
    for tile in range(count):
        for k in range(0 if tile % 3 == 2 else 1 + tile % 3):
            size = 4 + 2 * k + tile % 4
            y, x = random.integers(0, edge - size, 2)
            label[tile, y : y + size, x : x + size] = 1 + k % (classes - 1)
    pixels["tumour"][label > 0] += HIGH // 2
    return pixels, label


def write_set(
    folder: Path | str,
    *,
    train: int = 24,
    val: int = 3,
    test: int = 6,
    unseen: int = 0,
    rejected: int = 0,
    folds: int = 4,
    volumes: int = 4,
    edge: int = 64,
    classes: int = 2,
    anatomy: str = "autofluorescence",
    shuffled: bool = False,
    organs: Sequence[str] = ("",),
    synthesis: dict | None = None,
    source: TileSet | None = None,
    seed: int = 0,
) -> TileSet:
    """A finished set; with `synthesis`, a synthetic one.

    The training tiles of volume k are fold k % folds, its organ is organs[k], counted round.

    With `source`, tile k of it has its anatomy from training tile k of that set, counted round, and the labels of the
    next one and the one after that; without, its labels are drawn.
    """
    counts = {"train": train, "val": val, "test": test, "unseen": unseen, "rejected": rejected}
    split = np.repeat(list(counts), list(counts.values()))
    rows = np.arange(len(split))
    pixels, label = squares(len(split), edge, seed, classes)
    half = len(rows) // 2
    for name, part in (("a", slice(0, half)), ("b", slice(half, None))):
        tiles = {role: values[part] for role, values in (*pixels.items(), ("label", label))}
        write_shard(str(folder), name, tiles, {}, {"rows": []}, None)
    volume = rows % volumes
    index = pd.DataFrame(
        {
            "volume": [f"v{k}" for k in volume],
            "organ": [organs[k % len(organs)] for k in volume],
            "patient": "",
            "z0": rows,
            "z1": rows + 1,
            **{f"{axis}{end}": end * edge for axis in "yx" for end in (0, 1)},
            "shard": np.where(rows < half, "a", "b"),
            "position": np.where(rows < half, rows, rows - half),
            "split": split,
            "slab_axis": "",
            "gap": 0,
            "fold": np.where((split == "train") & (synthesis is None), volume % folds, -1),
            "foreground": (label > 0).sum(axis=(1, 2)),
            **{f"{role}_{end}": float(end == "high") * HIGH for role in pixels for end in ("low", "high")},
            "label_row": [*(rows[:train][::-1] if shuffled else rows[:train]), *rows[train:]],
        }
    )
    if synthesis is not None:
        index["kind"], index["seed"], index["label_sources"] = "real", rows, "[]"
    if source is not None:
        given = source.positions("train")
        anatomies = source.index.iloc[given[rows % len(given)]]
        for name in ("volume", *(f"{axis}{end}" for axis in "zyx" for end in (0, 1))):
            index[name] = anatomies[name].to_numpy()
        labels = [[int(given[(row + k) % len(given)]) for k in (1, 2)] for row in rows]
        index["label_sources"] = [json.dumps([{"tile": row} for row in laid]) for laid in labels]
        synthesis = {**(synthesis or {}), "tiles": {"uri": source.uri, "digest": source.digest}}
    data = Data(anatomy=anatomy, tumour="tumour", label="label", classes=classes)
    manifest = {
        "tile_shape": [edge, edge],
        "data": data.model_dump(mode="json", exclude={"path"}),
        "tiles": Tiles(size=(edge,), folds=folds).model_dump(mode="json"),
        "volumes": [{"id": f"v{k}", "shape": [len(rows), edge, edge]} for k in range(volumes)]
        if source is None
        else source.manifest["volumes"],
        "counts": {name: counts[name] for name in ("train", "val", "test", "unseen")},
        **({} if synthesis is None else {"synthesis": synthesis}),
    }
    return finish(folder, index, manifest)


def finish(folder: Path | str, index: pd.DataFrame, manifest: dict) -> TileSet:
    """Make shards a set, whose manifest says beside `manifest` what all of the tests' sets have in common."""
    common = {"roles": ["anatomy", "tumour", "label"], "normalisation": {"clip": True, "over": "volume"}}
    return TileSet.write(str(folder), index, {**common, **manifest})
