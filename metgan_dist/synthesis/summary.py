"""What a synthetic set looks like beside the real training tiles: pictures, and how its lesions are distributed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
from scipy import stats

from metgan_dist.figures import by_channel, histograms, image_grid
from metgan_dist.storage import Options
from metgan_dist.synthesis.gate import KEPT
from metgan_dist.synthesis.lesions import Lesions
from metgan_dist.tiles.tile_set import TileSet, chosen_rows

# Real tiles that the summary looks at, and how many of them one task reads.
MOST_REAL, PER_TASK = 4096, 256
PANELS = {"lesions per tile": "per_tile", "lesion size, pixels": "sizes", "lesion intensity": "intensities"}
PERCENTILES = (5, 25, 50, 75, 95)


def preview(tiles: TileSet, split: str, count: int) -> bytes | None:
    """PNG of at most `count` tiles of a split, evenly chosen: anatomy, label, generated; None where there are none."""
    rows = chosen_rows(tiles.positions(split), count)
    if not len(rows):
        return None
    loaded = [tiles.load(int(row)) for row in rows]
    columns = {
        **by_channel("anatomy", [tile["anatomy"] for tile in loaded], tiles.channels("anatomy")),
        "label": [tile["label"] for tile in loaded],
        **by_channel("generated", [tile["tumour"] for tile in loaded], tiles.channels("tumour")),
    }
    index = tiles.index.iloc[rows]
    names = [
        kind if np.isnan(dice) else f"{kind}, Dice {dice:.2f}"
        for kind, dice in zip(index["kind"], index["gate_dice"], strict=True)
    ]
    return image_grid(columns, rows=names)


def synthetic_lesions(tiles: TileSet, markers: Mapping[str, Mapping[str, Any]]) -> Lesions:
    """Lesions of the tiles that are kept, as the markers of the shards have them."""
    parts = []
    kept = (tiles.index["split"] == KEPT).groupby(tiles.index["shard"], sort=False)
    for shard, mask in kept:
        lesions = markers[str(shard)]["lesions"]
        per_tile, stays = np.array(lesions["per_tile"]), mask.to_numpy()
        of_kept = np.repeat(stays, per_tile)
        sizes, intensities = np.array(lesions["sizes"]), np.array(lesions["intensities"])
        parts.append(Lesions(per_tile[stays], sizes[of_kept], intensities[of_kept]))
    return Lesions.join(parts)


def real_lesions(tiles: TileSet) -> Lesions:
    """Lesions of the real training tiles that have any, evenly chosen where there are many; read by Ray tasks."""
    training = (tiles.index["split"] == "train") & (tiles.index["foreground"] > 0)
    rows = chosen_rows(np.flatnonzero(training.to_numpy()), MOST_REAL)
    task = ray.remote(num_cpus=0.25)(_lesions_of)
    blocks = [rows[first : first + PER_TASK] for first in range(0, len(rows), PER_TASK)]
    return Lesions.join(ray.get([task.remote(tiles.uri, block, tiles.options) for block in blocks]))


def _lesions_of(uri: str, rows: np.ndarray, options: Options | None) -> Lesions:
    tiles = TileSet.open(uri, options)
    loaded = (tiles.load(int(row)) for row in rows)
    return Lesions.join([Lesions.of(tile["label"], tile["tumour"][0] if "tumour" in tile else None) for tile in loaded])


def summarise(tiles: TileSet, synthetic: Lesions, real: Lesions) -> dict[str, Any]:
    """Numbers for `summary.json`.

    counts; placement (lesions moved into tissue and removed, tiles whose label or anatomy was drawn again); gate (how
    many pairs it dropped, the Dice of all); lesions: mean and percentiles of synthetic and real ones, and the
    Kolmogorov-Smirnov distance between them, 0 (the same distribution) to 1.
    """
    facts = [json.loads(text) for text in tiles.index["transform"]]
    dice = tiles.index["gate_dice"].dropna().to_numpy()
    lesions: dict[str, Any] = {}
    for name in PANELS.values():
        ours, theirs = getattr(synthetic, name), getattr(real, name)
        lesions[name] = {"synthetic": _described(ours), "real": _described(theirs)}
        ours, theirs = ours[np.isfinite(ours)], theirs[np.isfinite(theirs)]
        if len(ours) and len(theirs):
            lesions[name]["distance"] = float(stats.ks_2samp(ours, theirs).statistic)
    return {
        "counts": tiles.manifest["counts"],
        "placement": {
            "moved": sum(len(fact.get("moved", ())) for fact in facts),
            "removed": sum(fact.get("removed", 0) for fact in facts),
            "drawn_again": sum("attempt" in fact for fact in facts),
        },
        "gate": {"dice": _described(dice)} if len(dice) else {},
        "lesions": lesions,
    }


def _described(values: np.ndarray) -> dict[str, float]:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not len(values):
        return {"count": 0}
    percentiles = {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}
    return {"count": len(values), "mean": float(values.mean()), **percentiles}


def lesion_plot(synthetic: Lesions, real: Lesions) -> bytes:
    """PNG: lesions per tile, their sizes and intensities, synthetic against real; fractions, so numbers may differ."""
    panels = {
        panel: {"real": getattr(real, name), "synthetic": getattr(synthetic, name)} for panel, name in PANELS.items()
    }
    return histograms(panels, title="Lesions of training tiles", logarithmic=["lesion size, pixels"])
