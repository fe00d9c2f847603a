"""Scores of the folds' checkpoints on held-out tiles, on a Ray cluster: a task for every fold and block of tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch

from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.methods.method import Method
from metgan_dist.scores.labels import pooled_dice, tile_counts
from metgan_dist.scores.lesions import LesionCounts, LesionMatch, match_lesions
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.trained import load_method

BATCH = 4
COUNTS = ("found", "missed", "matched", "false_positives")
SCORES = ("dice", "precision", "recall", "jaccard", "voxel_dice")
_GPU_SHARE = 0.25  # matching components is work of the CPU, so several tasks share a GPU


@dataclass(frozen=True)
class FoldScores:
    """What the folds found, tile by tile and lesion by lesion.

    Attributes:
        tiles: a row for each fold and tile, with the columns fold, tile (row of the tile set), found, missed, matched,
            false_positives (components; see `scores.lesions`), and pixels of each class k: overlap_k (in both maps) and
            size_k (in one plus in the other).
        lesions: a row for each fold and true component, with the columns fold, tile, label (its class), lesion (its
            number in the tile), area (pixels), brightness (mean of the real image, in [-1, 1] where tiles are clipped),
            found.
    """

    tiles: pd.DataFrame
    lesions: pd.DataFrame

    @property
    def folds(self) -> list[int]:
        """Numbers of the folds that were scored, ascending."""
        return sorted(int(fold) for fold in self.tiles["fold"].unique())

    def scores(self, fold: int) -> dict[str, float]:
        """SCORES and COUNTS of a fold, pooled over its tiles."""
        rows = self.tiles[self.tiles["fold"] == fold]
        counts = LesionCounts(*(int(rows[name].sum()) for name in COUNTS))
        own = {name: float(getattr(counts, name)) for name in ("dice", "precision", "recall", "jaccard")}
        # As the lesions' scores: 1 where there is nothing to find, and nothing was found.
        own["voxel_dice"] = float(np.nan_to_num(pooled_dice(rows), nan=1.0))
        return {**own, **{name: float(getattr(counts, name)) for name in COUNTS}}

    def per_tile(self) -> pd.Series:
        """Voxel-wise Dice of each tile, the mean over folds; tiles without lesion and prediction stay out."""
        sums = {part: self.tiles.filter(regex=f"^{part}_").sum(axis=1) for part in ("overlap", "size")}
        dice = (2 * sums["overlap"] / sums["size"].where(sums["size"] > 0)).rename("dice")
        return dice.groupby(self.tiles["tile"]).mean().dropna()


def score_folds(
    checkpoints: Mapping[int, str],
    tiles: TileSet,
    rows: np.ndarray,
    *,
    block: int,
    plan: ResourcePlan,
    report: Callable[[str], None],
) -> FoldScores:
    """Score the checkpoints of the folds on the tiles `rows`; Ray must be initialised.

    Args:
        block: tiles in a task.
        plan: of the cluster; a task takes one CPU, and a share of a GPU where trainings use GPUs.
        report: gets a line for every fold.
    """
    task = _remote(score_block, plan)
    blocks = [rows[first : first + block] for first in range(0, len(rows), block)]
    pending = {
        fold: [task.remote(uri, tiles.uri, part, tiles.options) for part in blocks] for fold, uri in checkpoints.items()
    }
    frames: dict[str, list[pd.DataFrame]] = {"tiles": [], "lesions": []}
    for fold, waiting in pending.items():
        for part in ray.get(waiting):
            for name, frame in part.items():
                frames[name].append(frame.assign(fold=fold))
        report(f"scores: fold {fold}: {len(rows)} tiles")
    return FoldScores(**{name: pd.concat(parts, ignore_index=True) for name, parts in frames.items()})


def _remote(work: Callable[..., Any], plan: ResourcePlan) -> Any:
    return ray.remote(num_cpus=1, num_gpus=min(plan.gpus_per_worker, _GPU_SHARE))(work)


def score_block(
    checkpoint: str, tiles_uri: str, rows: np.ndarray, options: dict[str, Any] | None
) -> dict[str, pd.DataFrame]:
    """One task: the tables of `FoldScores` for some tiles, without the column fold."""
    tiles = TileSet.open(tiles_uri, options)
    classes = int(tiles.manifest["data"]["classes"])
    counted: list[dict[str, Any]] = []
    lesions: list[pd.DataFrame] = []
    for row, image, label, predicted in _predictions(checkpoint, tiles, rows, options):
        counts = LesionCounts()
        for k in range(1, classes):
            match = match_lesions(predicted == k, label == k)
            counts += match.counts
            lesions.append(_lesion_rows(row, k, match, image))
        pixels = tile_counts(torch.from_numpy(predicted)[None], torch.from_numpy(label)[None], classes)
        counted.append({"tile": row, **{name: getattr(counts, name) for name in COUNTS}})
        counted[-1] |= {name: int(values[0]) for name, values in pixels.items()}
    return {"tiles": pd.DataFrame(counted), "lesions": pd.concat(lesions, ignore_index=True)}


def _lesion_rows(tile: int, label: int, match: LesionMatch, image: np.ndarray) -> pd.DataFrame:
    """The true components of a class of a tile, none of them too, so that the columns are there in any case."""
    return pd.DataFrame(
        {
            "tile": np.full(len(match.found), tile, dtype=np.int64),
            "label": np.full(len(match.found), label, dtype=np.int64),
            "lesion": np.arange(1, len(match.found) + 1),
            "area": match.areas,
            "brightness": match.brightness(image),
            "found": match.found,
        }
    )


def _predictions(
    checkpoint: str, tiles: TileSet, rows: Sequence[int] | np.ndarray, options: dict[str, Any] | None
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """(row, real image, label, predicted label) of each tile, arrays ([D,] H, W)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    method: Method = load_method(checkpoint, options)[0].to(device)
    with torch.no_grad():
        for batch in tile_batches(tiles, rows, BATCH):
            predicted = method.translate({"tumour": batch["tumour"].to(device)}).cpu().numpy()
            for k, row in enumerate(batch["tile"].tolist()):
                yield row, batch["tumour"][k, 0].numpy(), batch["label"][k].numpy(), predicted[k]


@dataclass(frozen=True)
class Example:
    """A tile and what a fold made of it, arrays ([D,] H, W); `outcome` as in `LesionMatch.outcome`."""

    image: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    outcome: np.ndarray


def predict_tiles(checkpoint: str, tiles: TileSet, rows: Sequence[int], plan: ResourcePlan) -> dict[int, Example]:
    """What a checkpoint finds on a few tiles, by row, worked out on the cluster."""
    if not len(rows):
        return {}
    examples: dict[int, Example] = ray.get(
        _remote(predict_block, plan).remote(checkpoint, tiles.uri, list(rows), tiles.options)
    )
    return examples


def predict_block(
    checkpoint: str, tiles_uri: str, rows: Sequence[int], options: dict[str, Any] | None
) -> dict[int, Example]:
    """The work of `predict_tiles`, in this process."""
    tiles = TileSet.open(tiles_uri, options)
    examples = {}
    for row, image, label, predicted in _predictions(checkpoint, tiles, rows, options):
        classes = range(1, int(tiles.manifest["data"]["classes"]))
        outcome = np.maximum.reduce([match_lesions(predicted == k, label == k).outcome() for k in classes])
        examples[row] = Example(image, label, predicted, outcome)
    return examples
