"""What people read of a cross-validation: tables, lists of lesions, overlays; written beside the run and to MLflow."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.segmentation.figures import overlays
from metgan_dist.segmentation.scoring import FoldScores, predict_tiles, score_folds
from metgan_dist.segmentation.summary import counted, markdown, strata_table, summarise, table
from metgan_dist.segmentation.volumes import volume_table, voxel_sizes
from metgan_dist.tiles.independence import independent_units
from metgan_dist.tiles.tile_set import TileSet

SPLITS = ("test", "unseen")


def report_folds(
    opened: OpenRun, tiles: TileSet, checkpoints: Mapping[int, str], samples: str, notes: Sequence[str]
) -> None:
    """Score the folds' checkpoints on the test tiles, and apart on unseen volumes; print, write and log the report.

    `samples` says in words what the folds were trained on; `notes` are lines below the tables. Files: report.md,
    scores.csv (over folds), strata.csv (recall by size and brightness), places.parquet (counts by plane or volume),
    lesions.parquet, of crops volumes.csv (scores by volume), tiles.parquet (pixels of single tiles), overlays-test.png
    (worst and median tiles, each as the fold sees it alone).
    """
    settings, result = opened.recipe.segmentation, opened.result
    scored: dict[str, FoldScores] = {}
    for split in SPLITS:
        rows = tiles.positions(split)
        if not len(rows):
            continue
        with result.phase("scores"):
            block = opened.recipe.scores.block
            scored[split] = score_folds(checkpoints, tiles, rows, block=block, plan=opened.plan, report=say)
    independent = {split: str(independent_units(tiles, tiles.positions(split))) for split in scored}
    voxels = {split: voxel_sizes(tiles, tiles.positions(split)) for split in scored}
    summaries = {
        split: summarise(one, settings.strata, independent[split], voxels[split]) for split, one in scored.items()
    }
    result.scores |= summaries
    texts = [_text(tiles, split, summary, samples) for split, summary in summaries.items()]
    text = "\n".join([*texts, *(f"{note}\n" for note in notes)])
    files = {
        "report.md": text.encode(),
        "scores.csv": table(summaries).to_csv(index=False).encode(),
        "strata.csv": strata_table(summaries).to_csv(index=False).encode(),
        "tiles.parquet": _parquet({split: one.tiles for split, one in scored.items()}),
        "places.parquet": _parquet({split: one.places for split, one in scored.items()}),
        "lesions.parquet": _parquet({split: one.lesions for split, one in scored.items()}),
    }
    volumes = {split: volume_table(one, voxels[split]) for split, one in scored.items()}
    if any(len(one) for one in volumes.values()):
        joint = pd.concat([one.assign(split=split) for split, one in volumes.items()], ignore_index=True)
        files["volumes.csv"] = joint.to_csv(index=False).encode()
    with result.phase("pictures"):
        for split, one in scored.items():
            if picture := _overlays(opened, tiles, one, checkpoints):
                files[f"overlays-{split}.png"] = picture
    opened.keep(files)
    say(f"\n{text}")


def _text(tiles: TileSet, split: str, summary: dict[str, Any], samples: str) -> str:
    volumes = tiles.index["volume"].iloc[tiles.positions(split)].nunique()
    folds = len(summary["folds"])
    title = f"{counted(summary)}, on {summary['tiles']} {split} tiles of {volumes} volume(s), {folds} fold(s)"
    return markdown(f"{title}; trained on {samples}", summary)


def _parquet(frames: dict[str, pd.DataFrame]) -> bytes:
    packed = io.BytesIO()
    joint = pd.concat([frame.assign(split=split) for split, frame in frames.items()], ignore_index=True)
    joint.to_parquet(packed, index=False)
    return packed.getvalue()


def _overlays(opened: OpenRun, tiles: TileSet, scored: FoldScores, checkpoints: Mapping[int, str]) -> bytes | None:
    """The tiles with the lowest Dice and those around the median one, as the fold of median Dice sees them."""
    ranked, count = scored.per_tile().sort_values(kind="stable"), opened.recipe.segmentation.pictures
    if ranked.empty:
        return None
    fold = sorted(scored.folds, key=lambda fold: scored.scores(fold)["dice"])[len(scored.folds) // 2]
    worst = ranked.iloc[:count]
    first = max(len(worst), (len(ranked) - count) // 2)
    chosen = {"worst": worst, "median": ranked.iloc[first : first + count]}
    rows = [int(row) for part in chosen.values() for row in part.index]
    examples = predict_tiles(checkpoints[fold], tiles, rows, opened.plan)
    volumes = tiles.index["volume"]
    return overlays(
        {
            f"{kind}: tile {row} of\n{volumes.iloc[row]}, Dice {dice:.2f}": examples[row]
            for kind, part in chosen.items()
            for row, dice in part.items()
        }
    )
