"""From the rows of the blocks to a finished set: ranges, splits, shuffled labels, and what the manifest says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe, Tiles, channel_names
from metgan_dist.storage import Options
from metgan_dist.tiles.floor import COLUMNS
from metgan_dist.tiles.geometry import AXES
from metgan_dist.tiles.grid import WholeGrid, grid_of
from metgan_dist.tiles.intensity import Histogram
from metgan_dist.tiles.organs import organ_names
from metgan_dist.tiles.ranges import check_volume, range_of
from metgan_dist.tiles.shards import Histograms, read_histograms
from metgan_dist.tiles.splits import assign_splits, of_domain
from metgan_dist.tiles.survey import ROLES, Survey
from metgan_dist.tiles.tile_set import SPLITS, TISSUE_MAP, TileSet
from metgan_dist.tiles.tiling import images_of, plane_key
from metgan_dist.volumes.labelled import LabelledVolume
from metgan_dist.volumes.layers import Layer

READ_AT_ONCE = 8


def finish_set(
    recipe: Recipe,
    folder: str,
    surveys: Sequence[Survey],
    rows: Mapping[str, Sequence[pd.DataFrame]],
    facts: Mapping[str, Any],
) -> TileSet:
    """Write index.parquet, then manifest.json, and open the set.

    Args:
        recipe: its sections data, with its description read in, and tiles, and its storage options are used.
        folder: where the shards are.
        surveys: the volumes.
        rows: volume id -> the rows of its blocks, a frame each.
        facts: what else the manifest holds (fingerprint, roles, planned, over_read, skipped).

    Raises UserError for a constant volume, when `tiles.min_foreground` drops every tile, when splits leave nothing to
    train on, or when no training tile holds foreground; of a set with domains, also where that holds for one of them.
    """
    data, options = recipe.data, recipe.storage.options
    frames, volumes = [], []
    for survey in surveys:
        if not rows.get(survey.ref.id):
            continue
        frame = _volume_rows(survey, rows[survey.ref.id])
        shards = list(dict.fromkeys(frame["shard"]))
        rules = data.rules(recipe.tiles, survey.ref.domain)
        statistics = _add_ranges(frame, survey.volume, shards, rules, folder, options)
        frames.append(frame)
        volumes.append(_describe(survey, statistics, rules))
    for domain in dict.fromkeys(survey.ref.domain for survey in surveys):
        if not any((frame["domain"] == domain).any() for frame in frames):
            raise UserError(
                f"data.volumes: no tile could be cut from any volume{of_domain(domain)}; see the lines above"
            )
    cut = pd.concat(frames, ignore_index=True)
    index = _kept_and_split(cut, recipe.tiles, {survey.ref.domain for survey in surveys if survey.volume.has("label")})
    index["label_row"] = _label_rows(index, data.shuffled_labels)
    manifest = {
        **facts,
        **({"domains": _domain_table(recipe, surveys, index)} if data.domains else {}),
        **({"synthesis": data.synthesis} if data.synthesis else {}),
        "data": data.model_dump(mode="json", exclude={"path", "unpaired"}),
        "tiles": recipe.tiles.model_dump(mode="json"),
        "normalisation": {"clip": recipe.tiles.clip, "over": recipe.tiles.normalise_over},
        "organs": organ_names(index),
        "padding": _padding(index, recipe, surveys),
        "volumes": volumes,
        "counts": _counts(index, cut, facts),
    }
    return TileSet.write(folder, index, manifest, options)


def _domain_table(recipe: Recipe, surveys: Sequence[Survey], index: pd.DataFrame) -> dict[str, Any]:
    """Of each domain: which role its image plays, its channels, what its tiles hold, its range rule, its tiles."""
    table: dict[str, Any] = {}
    for role, name in (("anatomy", recipe.data.source), ("tumour", recipe.data.target)):
        if name is None:  # synthetic volumes may be of the target alone
            continue
        volume = next(survey.volume for survey in surveys if survey.ref.domain == name)
        own = index["split"][index["domain"] == name]
        rules = recipe.data.rules(recipe.tiles, name).model_dump(mode="json")
        table[name] = {
            "role": role,
            "channels": list(channel_names(recipe.data.domains[name].channels)),
            "holds": [known for known in ROLES if volume.has(known)],
            **{field: rules[field] for field in ("modality", "normalise", "percentiles")},
            "tiles": {split: int((own == split).sum()) for split in SPLITS},
        }
    return table


def _kept_and_split(cut: pd.DataFrame, tiles: Tiles, labelled: Set[str]) -> pd.DataFrame:
    """The tiles with enough foreground, on their sides; UserError when that leaves nothing to learn from.

    `labelled`: the domains that have labels; the others' tiles are kept whatever they hold.
    """
    enough = (cut["foreground"] >= tiles.min_foreground) | ~cut["domain"].isin({*labelled, ""})
    for domain, kept in enough.groupby(cut["domain"]):
        if not kept.any():
            raise UserError(
                f"tiles.min_foreground: none of the {len(kept)} tiles{of_domain(domain)} holds {tiles.min_foreground} "
                "label pixels; lower it, or check data.label"
            )
    index = assign_splits(cut[enough].reset_index(drop=True), tiles).drop(columns=["fixed", "stacked", "index"])
    training = index[index["split"] == "train"]
    for domain, found in (training["foreground"] > 0).groupby(training["domain"]):
        if domain in labelled and not found.any():
            raise UserError(
                f"data.label: none of the {len(found)} training tiles{of_domain(domain)} holds a labelled pixel; check "
                "the label, set tiles.min_foreground to 1, or hold out another part (tiles.slab_axis, tiles.test)"
            )
    return index


def _label_rows(index: pd.DataFrame, shuffled: float) -> np.ndarray:
    """For each tile the row whose label it carries: shuffled among the training tiles of its own domain."""
    label_row = np.arange(len(index))
    for domain in index["domain"].unique():
        training = np.flatnonzero((index["split"] == "train") & (index["domain"] == domain))
        label_row[training] = shuffle_labels(training, len(index), shuffled)[training]
    return label_row


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
    frame["fixed"], frame["domain"] = survey.ref.split, survey.ref.domain
    return frame


def _add_ranges(
    frame: pd.DataFrame,
    volume: LabelledVolume,
    shards: Sequence[str],
    tiles: Tiles,
    folder: str,
    options: Options | None,
) -> dict[str, dict[str, float | None]]:
    """Add (low, high) of each channel to the rows; statistics of the volume by layer."""
    histograms = _joint_histograms(folder, shards, options)
    statistics: dict[str, dict[str, float | None]] = {}
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
            **_removed(frame, layer),
        }
    return statistics


def _removed(frame: pd.DataFrame, layer: Layer) -> dict[str, float | None]:
    """What the floor took of a layer, which every row of the volume carries up to here."""
    if f"{layer}_{COLUMNS[0]}" not in frame:
        return {}
    values = [float(frame.pop(f"{layer}_{name}").iloc[0]) for name in COLUMNS]
    return {name: None if np.isnan(value) else value for name, value in zip(COLUMNS, values, strict=True)}


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


def _describe(survey: Survey, statistics: dict[str, dict[str, float | None]], rules: Tiles) -> dict[str, Any]:
    volume, grid = survey.volume, grid_of(rules)
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
        **({TISSUE_MAP: survey.ref.tissue_map} if survey.ref.makes_tissue else {}),
        **({} if rules.grid is None or grid is None else {"grid": _placed(grid, volume)}),
    }


def _placed(grid: WholeGrid, volume: LabelledVolume) -> dict[str, Any]:
    """How to bring what is on the grid of the tiles back to its place: see `WholeGrid`."""
    affine = None if volume.affine is None else grid.affine(volume.affine, volume.shape).tolist()
    return {"size": list(grid.size), "margin": list(grid.margin), "affine": affine}


def _padding(index: pd.DataFrame, recipe: Recipe, surveys: Sequence[Survey]) -> dict[str, Any]:
    columns = [f"pad_{axis}{side}" for axis in AXES for side in (0, 1)]
    padded = int((index[columns].sum(axis=1) > 0).sum())
    kinds = {"cardiac" in recipe.data.rules(recipe.tiles, survey.ref.domain).modality for survey in surveys}
    value = "lowest of the crop" if kinds == {True} else 0 if kinds == {False} else "lowest of a cardiac crop, else 0"
    return {"edge": recipe.tiles.edge, "value": value, "tiles": padded}


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
