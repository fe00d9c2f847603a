"""From the rows of the blocks to a finished set: ranges, splits, shuffled labels, and what the manifest says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.recipe import Data, Recipe, Tiles
from metgan_dist.storage import Options
from metgan_dist.tiles.geometry import AXES
from metgan_dist.tiles.intensity import Histogram
from metgan_dist.tiles.organs import organ_names
from metgan_dist.tiles.ranges import check_volume, range_of
from metgan_dist.tiles.shards import Histograms, read_histograms
from metgan_dist.tiles.splits import assign_splits
from metgan_dist.tiles.survey import Survey
from metgan_dist.tiles.tile_set import SPLITS, TileSet
from metgan_dist.tiles.tiling import images_of, plane_key
from metgan_dist.volumes.labelled import LabelledVolume

READ_AT_ONCE = 8


def finish_set(
    recipe: Recipe,
    data: Data,
    folder: str,
    surveys: Sequence[Survey],
    rows: Mapping[str, Sequence[pd.DataFrame]],
    facts: Mapping[str, Any],
) -> TileSet:
    """Write index.parquet, then manifest.json, and open the set.

    Args:
        recipe: its tiles section and storage options are used.
        data: the data section with its description read in.
        folder: where the shards are.
        surveys: the volumes.
        rows: volume id -> the rows of its blocks, a frame each.
        facts: what else the manifest holds (fingerprint, roles, planned, over_read, skipped).

    Raises UserError for a constant volume, when `tiles.min_foreground` drops every tile, when splits leave nothing to
    train on, or when no training tile holds foreground.
    """
    options = recipe.storage.options
    frames, volumes = [], []
    for survey in surveys:
        if not rows.get(survey.ref.id):
            continue
        frame = _volume_rows(survey, rows[survey.ref.id])
        shards = list(dict.fromkeys(frame["shard"]))
        statistics = _add_ranges(frame, survey.volume, shards, recipe.tiles, folder, options)
        frames.append(frame)
        volumes.append(_describe(survey, statistics))
    if not frames:
        raise UserError("data.volumes: no tile could be cut from any volume; see the lines above")
    cut = pd.concat(frames, ignore_index=True)
    index = _kept_and_split(cut, recipe.tiles, has_label="label" in facts["roles"])
    training = index["split"] == "train"
    index["label_row"] = shuffle_labels(np.flatnonzero(training), len(index), data.shuffled_labels)
    manifest = {
        **facts,
        "data": data.model_dump(mode="json", exclude={"path"}),
        "tiles": recipe.tiles.model_dump(mode="json"),
        "normalisation": {"clip": recipe.tiles.clip, "over": recipe.tiles.normalise_over},
        "organs": organ_names(index),
        "padding": _padding(index, recipe.tiles),
        "volumes": volumes,
        "counts": _counts(index, cut, facts),
    }
    return TileSet.write(folder, index, manifest, options)


def _kept_and_split(cut: pd.DataFrame, tiles: Tiles, *, has_label: bool) -> pd.DataFrame:
    """The tiles with enough foreground, on their sides; UserError when that leaves nothing to learn from."""
    index = cut[cut["foreground"] >= tiles.min_foreground].reset_index(drop=True)
    if index.empty:
        raise UserError(
            f"tiles.min_foreground: none of the {len(cut)} tiles holds {tiles.min_foreground} label pixels; "
            "lower it, or check data.label"
        )
    index = assign_splits(index, tiles).drop(columns=["fixed", "stacked", "index"])
    training = index["split"] == "train"
    if has_label and not (index.loc[training, "foreground"] > 0).any():
        raise UserError(
            f"data.label: none of the {int(training.sum())} training tiles holds a labelled pixel; check the label, "
            "set tiles.min_foreground to 1, or hold out another part (tiles.slab_axis, tiles.test)"
        )
    return index


def shuffle_labels(training: np.ndarray, tiles: int, fraction: float) -> np.ndarray:
    """For each tile the row whose label it carries: of a `fraction` of the training rows, another training row.

    The chosen labels are passed round in a circle of random order, so that no chosen tile keeps its own. Always the
    same for the same tiles.
    """
    label_row = np.arange(tiles)
    count = round(fraction * len(training))
    if fraction and len(training) > 1:
        count = max(2, count)
        order = np.random.Generator(np.random.PCG64(20220104)).permutation(training)[:count]
        label_row[order] = np.roll(order, 1)
    return label_row


def _volume_rows(survey: Survey, rows: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows of a volume in the order of its plan, with what the data set says of it."""
    frame = pd.concat(rows).sort_values("index", ignore_index=True)
    frame.insert(0, "volume", survey.ref.id)
    names, table = survey.volume.names, survey.volume.table
    frame["stacked"] = names is not None
    frame["name"] = frame["z0"].map(lambda z: names[z]) if names is not None else ""
    frame["organ"], frame["patient"] = survey.ref.organ or "", survey.ref.patient or ""
    if table is not None:
        for column in ("organ", "patient"):
            own = table[column].fillna("").to_numpy()[frame["z0"]]
            frame[column] = np.where(own != "", own, frame[column])
    frame["fixed"] = survey.ref.split
    return frame


def _add_ranges(
    frame: pd.DataFrame,
    volume: LabelledVolume,
    shards: Sequence[str],
    tiles: Tiles,
    folder: str,
    options: Options | None,
) -> dict[str, dict[str, float]]:
    """Add (low, high) of each channel to the rows; statistics of the volume by layer."""
    histograms = _joint_histograms(folder, shards, options)
    statistics = {}
    for layer in images_of(volume.dtypes):
        merged = {key: histogram for (channel, key), histogram in histograms.items() if channel == layer}
        check_volume(list(merged.values()), tiles, volume.id, volume.described(layer))
        whole = Histogram.merge(merged.values())
        if tiles.normalise_over == "tile":
            clipped = float(frame.pop(f"{layer}_clipped").mean())
        else:
            ranges = {key: range_of(histogram, tiles) for key, histogram in merged.items()}
            keys = [
                plane_key(view, plane) if tiles.normalise_over == "plane" else ""
                for view, plane in zip(frame["view"], frame["plane"], strict=True)
            ]
            frame[f"{layer}_low"] = [ranges[key][0] for key in keys]
            frame[f"{layer}_high"] = [ranges[key][1] for key in keys]
            outside = {key: merged[key].fraction_outside(*ranges[key]) * merged[key].pixels for key in merged}
            clipped = sum(outside.values()) / whole.pixels
        statistics[layer] = {
            **whole.summary(),
            "low": float(frame[f"{layer}_low"].min()),
            "high": float(frame[f"{layer}_high"].max()),
            "clipped": clipped if tiles.clip and tiles.normalise != "none" else 0.0,
        }
    return statistics


def _joint_histograms(folder: str, shards: Sequence[str], options: Options | None) -> Histograms:
    """Histograms over all blocks of a volume; some blocks at a time, since those of all would fill the memory."""
    joint: Histograms = {}
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        for first in range(0, len(shards), READ_AT_ONCE):
            some = shards[first : first + READ_AT_ONCE]
            parts = [joint, *pool.map(lambda shard: read_histograms(folder, shard, options), some)]
            keys = dict.fromkeys(key for part in parts for key in part)
            joint = {key: Histogram.merge([part[key] for part in parts if key in part]) for key in keys}
    return joint


def _describe(survey: Survey, statistics: dict[str, dict[str, float]]) -> dict[str, Any]:
    volume = survey.volume
    ignored = {"label_values_ignored": volume.ignored} if volume.ignored else {}
    return {
        "id": survey.ref.id,
        "organ": survey.ref.organ,
        "patient": survey.ref.patient,
        "shape": list(volume.shape),
        "chunks": list(volume.chunks),
        "spacing": survey.spacing,
        "unit": volume.spacing.unit if volume.spacing else None,
        "dtypes": {layer: str(dtype) for layer, dtype in volume.dtypes.items()},
        "intensities": statistics,
        **ignored,
    }


def _padding(index: pd.DataFrame, tiles: Tiles) -> dict[str, Any]:
    columns = [f"pad_{axis}{side}" for axis in AXES for side in (0, 1)]
    padded = int((index[columns].sum(axis=1) > 0).sum())
    return {"edge": tiles.edge, "value": "lowest of the crop" if "cardiac" in tiles.modality else 0, "tiles": padded}


def _counts(index: pd.DataFrame, cut: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, Any]:
    splits = index["split"].value_counts()
    with_label = index[index["foreground"] > 0]["split"].value_counts()
    return {
        "planned": facts["planned"],
        **{split: int(splits.get(split, 0)) for split in SPLITS},
        "with_foreground": {split: int(count) for split, count in sorted(with_label.items())},
        "dropped": {
            "damaged": facts["planned"] - len(cut),
            "min_foreground": len(cut) - len(index),
            "gap": int(splits.get("gap", 0)),
        },
    }
