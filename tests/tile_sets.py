"""Tile sets written straight to disk, real and synthetic: bright squares on noise, labelled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from metgan_dist.recipe import Data, Domain, Phantom, Tiles
from metgan_dist.tiles.cut import cut_volume
from metgan_dist.tiles.cut import finish as finish_tile
from metgan_dist.tiles.geometry import plan_tiles
from metgan_dist.tiles.shards import write_shard
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.volumes.layers import layers_of
from metgan_dist.volumes.phantoms import phantom_volume

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
    """A finished set; with `synthesis`, a synthetic one, and where `anatomy` is "" one without.

    The training tiles of volume k are fold k % folds, its organ is organs[k], counted round.

    With `source`, tile k of it has its anatomy from training tile k of that set, counted round, and the labels of the
    next one and the one after that; without, its labels are drawn.
    """
    counts = {"train": train, "val": val, "test": test, "unseen": unseen, "rejected": rejected}
    split = np.repeat(list(counts), list(counts.values()))
    rows = np.arange(len(split))
    pixels, label = squares(len(split), edge, seed, classes)
    if not anatomy:
        del pixels["anatomy"]
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
            "name": "",
            **flat(rows, edge),
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
        "roles": [*pixels, "label"],
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


def write_cut(folder: Path | str, tumour: np.ndarray, label: np.ndarray, tiles: Tiles, classes: int = 2) -> TileSet:
    """Test tiles of a volume (z, y, x) as they are cut from it: images of 0 to HIGH, in [-1, 1] as they are loaded."""
    plans = plan_tiles(tiles, "v0", (tumour.shape[0], tumour.shape[1], tumour.shape[2]))
    cut = cut_volume(plans, {"tumour": tumour.astype(np.uint16), "label": label.astype(np.uint8)})
    stacks = {
        role: np.stack(
            [finish_tile(tile, plan, is_label=role == "label") for tile, plan in zip(own, plans, strict=True)]
        )
        for role, own in cut.items()
    }
    write_shard(str(folder), "a", {**stacks, "anatomy": stacks["tumour"]}, {}, {"rows": []}, None)
    rows = np.arange(len(plans))
    region = {f"{axis}{end}": [plan.region[k][end] for plan in plans] for k, axis in enumerate("zyx") for end in (0, 1)}
    pads = {f"pad_{axis}{end}": [plan.pad[k][end] for plan in plans] for k, axis in enumerate("zyx") for end in (0, 1)}
    columns = {"volume": "v0", "organ": "", "patient": "", "name": "", "shard": "a", "split": "test", "slab_axis": ""}
    index = pd.DataFrame(
        {
            **{name: [value] * len(plans) for name, value in columns.items()},
            **{"view": [plan.view for plan in plans], "plane": [plan.plane for plan in plans]},
            **region,
            **pads,
            **{
                f"{role}_{end}": float(end == "high") * HIGH
                for role in ("anatomy", "tumour")
                for end in ("low", "high")
            },
            **{"position": rows, "label_row": rows, "gap": 0, "fold": -1},
            "foreground": np.count_nonzero(stacks["label"].reshape(len(plans), -1), axis=1),
        }
    )
    manifest = {
        "tile_shape": list(tiles.shape),
        "data": Data(tumour="tumour", label="label", classes=classes).model_dump(mode="json", exclude={"path"}),
        "tiles": tiles.model_dump(mode="json"),
        "volumes": [{"id": "v0", "shape": list(tumour.shape)}],
        "counts": {"train": 0, "val": 0, "test": len(plans), "unseen": 0},
    }
    return finish(folder, index, manifest)


def write_crops(
    folder: Path | str, size: tuple[int, int, int] = (24, 32, 32), splits: Sequence[str] = ("train",) * 5 + ("val",)
) -> TileSet:
    """Crops of a light-sheet phantom, as many as `splits` names, side by side; each holds some of a metastasis."""
    depth, height, width = size
    count = len(splits)
    drawn = phantom_volume(Phantom(shape=(depth, 4 * height, 4 * count * width)), 0)
    region = ((0, depth), (height, 3 * height), (0, 4 * count * width))
    drawing = drawn.draw(region)
    anatomy, tumour = drawing.images
    label = drawing.label
    # Crops that hold most label, among those that do not overlap.
    corners = [(y, x) for y in (0, height) for x in range(0, 4 * count * width, width)]
    held = [np.count_nonzero(label[:, y : y + height, x : x + width]) for y, x in corners]
    chosen = sorted(np.argsort(held, kind="stable")[-count:])
    assert min(held[k] for k in chosen) > 0
    cut = {
        role: np.stack([voxels[:, y : y + height, x : x + width] for y, x in (corners[k] for k in chosen)])
        for role, voxels in (("anatomy", anatomy), ("tumour", tumour), ("label", label.astype(np.uint8)))
    }
    write_shard(str(folder), "a", cut, {}, {"rows": []}, None)
    rows = np.arange(count)
    places = np.array([corners[k] for k in chosen])
    index = pd.DataFrame(
        {
            **dict.fromkeys(("organ", "patient", "name", "slab_axis"), [""] * count),
            **{"volume": "v0", "shard": "a", "view": "zyx", "plane": 0, "gap": 0, "fold": -1},
            **{"z0": 0, "z1": depth, "y0": places[:, 0], "y1": places[:, 0] + height},
            **{"x0": places[:, 1], "x1": places[:, 1] + width},
            **{f"pad_{axis}{end}": 0 for axis in "zyx" for end in (0, 1)},
            **{"position": rows, "label_row": rows, "split": list(splits)},
            "foreground": np.count_nonzero(cut["label"].reshape(count, -1), axis=1),
            **{f"{role}_low": float(cut[role].min()) for role in ("anatomy", "tumour")},
            **{f"{role}_high": float(cut[role].max()) for role in ("anatomy", "tumour")},
        }
    )
    manifest = {
        "tile_shape": list(size),
        "data": Data(label="metastases").model_dump(mode="json", exclude={"path"}),
        "tiles": Tiles(kind="crop", size=size).model_dump(mode="json"),
        "volumes": [{"id": "v0", "shape": list(label.shape), "dtypes": dict.fromkeys(("anatomy", "tumour"), "uint16")}],
        "counts": {split: list(splits).count(split) for split in ("train", "val", "test", "unseen")},
    }
    return finish(folder, index, manifest)


def flat(planes: np.ndarray, edge: int) -> dict[str, object]:
    """Columns of an index whose tiles are one plane each, at the corner of its volume."""
    pads = {f"pad_{axis}{end}": 0 for axis in "zyx" for end in (0, 1)}
    region = {"z0": planes, "z1": planes + 1} | {f"{axis}{end}": end * edge for axis in "yx" for end in (0, 1)}
    return {"view": "z", "plane": planes, **region, **pads}


def finish(folder: Path | str, index: pd.DataFrame, manifest: dict) -> TileSet:
    """Make shards a set, whose manifest says beside `manifest` what all of the tests' sets have in common."""
    common = {"roles": ["anatomy", "tumour", "label"], "normalisation": {"clip": True, "over": "volume"}}
    return TileSet.write(str(folder), index, {**common, **manifest})


def several_channels(
    folder: Path | str,
    *,
    anatomy: Sequence[str] = ("autofluorescence", "nuclei"),
    tumour: Sequence[str] = ("tumour",),
    splits: Sequence[str] = ("train",) * 4 + ("val", "test", "test"),
    edge: int = 64,
    seed: int = 0,
) -> TileSet:
    """A finished set with so many channels, channel k from 100 k to 1000 (k + 1); a square of foreground in each."""
    random, rows = np.random.default_rng(seed), np.arange(len(splits))
    names = [
        layer
        for role, channels in (("anatomy", anatomy), ("tumour", tumour))
        for layer in layers_of(role, len(channels))
    ]
    label = np.zeros((len(rows), edge, edge), np.uint8)
    label[:, 8:24, 8:40] = 1
    pixels = {"label": label}
    ranges: dict[str, float] = {}
    for layer in names:
        k = int(layer.partition("_")[2] or 0)
        pixels[layer] = random.integers(100 * k, 1000 * (k + 1) + 1, label.shape).astype(np.uint16)
        pixels[layer][:, 0, :2] = 100 * k, 1000 * (k + 1)
        ranges |= {f"{layer}_low": 100.0 * k, f"{layer}_high": 1000.0 * (k + 1)}
    write_shard(str(folder), "s", pixels, {}, {"rows": []}, None)
    fixed = {"organ": "", "patient": "", "name": "", "shard": "s", "fold": 0, **ranges}
    index = pd.DataFrame(
        {
            "volume": [f"v{row % 2}" for row in rows],
            **{name: [value] * len(rows) for name, value in fixed.items()},
            **flat(rows, edge),
            "position": rows,
            "split": splits,
            "foreground": label.sum(axis=(1, 2)),
            "label_row": rows,
        }
    )
    data = Data(anatomy=list(anatomy), tumour=list(tumour))
    manifest = {
        "tile_shape": [edge, edge],
        "data": data.model_dump(mode="json", exclude={"path"}),
        "tiles": Tiles(size=(edge,)).model_dump(mode="json"),
        "volumes": [{"id": f"v{k}", "shape": [len(rows), edge, edge], "dtypes": dict.fromkeys(names, "uint16")}
                    for k in range(2)],
        "counts": {split: list(splits).count(split) for split in ("train", "val", "test", "unseen")},
    }  # fmt: skip
    return finish(folder, index, manifest)


def write_domains(
    folder: Path | str,
    *,
    source: Sequence[str] = ("train",) * 7 + ("val", "test", "test"),
    target: Sequence[str] = ("train",) * 12 + ("val", "val", "test", "test"),
    labelled: Sequence[str] = ("ct", "mr"),
    edge: int = 64,
    classes: int = 2,
    seed: int = 0,
) -> TileSet:
    """A finished set of two domains: tiles of `ct` hold anatomy, those of `mr`, after them, tumour images.

    `source`, `target`: the splits of their tiles, of two volumes each; `labelled`: the domains that have labels.
    """
    frames, table = [], {}
    for name, role, splits in (("ct", "anatomy", source), ("mr", "tumour", target)):
        rows = np.arange(len(splits))
        pixels, label = squares(len(splits), edge, seed + len(frames), classes)
        held = {role: pixels[role], **({"label": label} if name in labelled else {})}
        write_shard(str(folder), name, held, {}, {"rows": []}, None)
        frame = {
            "volume": [f"{name}{row % 2}" for row in rows],
            **{"domain": name, "organ": "", "patient": "", "name": "", "slab_axis": "", "gap": 0, "shard": name},
            **flat(rows, edge),
            **{"position": rows, "split": splits, "fold": np.where(np.array(splits) == "train", rows % 2, -1)},
            "foreground": (label > 0).sum(axis=(1, 2)) * (name in labelled),
            **{f"{role}_{end}": float(end == "high") * HIGH for end in ("low", "high")},
        }
        frames.append(pd.DataFrame(frame))
        table[name] = {
            **{"role": role, "channels": [name], "holds": list(held), "modality": "light-sheet"},
            **{"normalise": "percentile", "percentiles": [0.5, 99.8]},
            "tiles": {split: list(splits).count(split) for split in ("train", "val", "test", "unseen")},
        }
    index = pd.concat(frames, ignore_index=True)
    index["label_row"] = np.arange(len(index))
    domains = {"ct": Domain(channels="ct"), "mr": Domain(channels="mr")}
    data = Data(domains=domains, source="ct", target="mr", anatomy="ct", tumour="mr", classes=classes)
    manifest = {
        "tile_shape": [edge, edge],
        "domains": table,
        "data": data.model_dump(mode="json", exclude={"path", "unpaired"}),
        "tiles": Tiles(size=(edge,)).model_dump(mode="json"),
        "volumes": [{"id": f"{name}{k}", "shape": [len(index), edge, edge]} for name in table for k in range(2)],
        "counts": {split: int((index["split"] == split).sum()) for split in ("train", "val", "test", "unseen")},
    }
    return finish(folder, index, manifest)
