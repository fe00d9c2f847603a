"""Scores of the folds' checkpoints on held-out tiles, on a Ray cluster: a task for every fold and some cells.

Tiles that overlap show the same lesions, so they are joined in their plane (crops: in their volume) before anything is
counted: probabilities are averaged where tiles overlap, and thresholded then (see `tiles.mosaic`). Each lesion of a
plane or volume is one, however many tiles hold a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import ray

from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.recipe import class_names
from metgan_dist.scores.labels import class_dice, pooled_dice
from metgan_dist.scores.lesions import LesionCounts
from metgan_dist.scores.pieces import join_parts
from metgan_dist.segmentation.cells import Example, FoundInCell, predict_block, score_cells
from metgan_dist.tiles.mosaic import Cell, mosaic
from metgan_dist.tiles.tile_set import TileSet

COUNTS = ("found", "missed", "matched", "false_positives")
SCORES = ("dice", "precision", "recall", "jaccard", "voxel_dice")
OF_CLASS = "voxel_dice/"  # before the name of a class: the Dice of its voxels alone
_GPU_SHARE = 0.25  # matching components is work of the CPU, so several tasks share a GPU


@dataclass(frozen=True)
class FoldScores:
    """What the folds found, place by place (a plane, a slab of planes, or a volume; see `tiles.mosaic`).

    Attributes:
        tiles: a row for each fold and tile, with the columns fold, tile (row of the tile set), and pixels of each class
            k on that tile alone: overlap_k (in both maps) and size_k (in one plus in the other).
        places: a row for each fold and place, with the columns fold, place (its number), volume, view, first, last
            (source voxels along the view), unit, tiles, then found, missed, matched, false_positives (components of the
            joined tiles; see `scores.lesions`), and overlap_k and size_k of the joined tiles.
        lesions: a row for each fold and true component, with the columns fold, place, label (its class), lesion (its
            number in the place), area (pixels), brightness (mean of the real image, in [-1, 1] where tiles are
            clipped), found.
        classes: names of the foreground classes, in the order of their numbers.
    """

    tiles: pd.DataFrame
    places: pd.DataFrame
    lesions: pd.DataFrame
    classes: tuple[str, ...] = ()

    @property
    def folds(self) -> list[int]:
        """Numbers of the folds that were scored, ascending."""
        return sorted(int(fold) for fold in self.places["fold"].unique())

    def scores(self, fold: int) -> dict[str, float]:
        """SCORES and COUNTS of a fold, pooled over its places; of several classes also `voxel_dice/NAME` of each."""
        rows = self.places[self.places["fold"] == fold]
        counts = LesionCounts(*(int(rows[name].sum()) for name in COUNTS))
        own = {name: float(getattr(counts, name)) for name in ("dice", "precision", "recall", "jaccard")}
        # As the lesions' scores: 1 where there is nothing to find, and nothing was found.
        own["voxel_dice"] = float(np.nan_to_num(pooled_dice(rows), nan=1.0))
        if len(self.classes) > 1:
            dice = np.nan_to_num(class_dice(rows), nan=1.0)
            own |= {f"{OF_CLASS}{name}": float(value) for name, value in zip(self.classes, dice, strict=True)}
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
        block: tiles in a task, more where a single cell has more.
        plan: of the cluster; a task takes one CPU, and a share of a GPU where trainings use GPUs.
        report: gets a line for every fold.
    """
    task = _remote(score_cells, plan)
    places, cells = mosaic(tiles.index, tiles.shape, rows)
    blocks = [ray.put(part) for part in _tasks(cells, block)]
    pending = {
        fold: [task.remote(uri, tiles.uri, part, tiles.options, tiles.domain) for part in blocks]
        for fold, uri in checkpoints.items()
    }
    frames: dict[str, list[pd.DataFrame]] = {"tiles": [], "places": [], "lesions": []}
    for fold, waiting in pending.items():
        scored = joined(places, [found for task_found in ray.get(waiting) for found in task_found])
        for name, frame in scored.items():
            frames[name].append(frame.assign(fold=fold))
        report(f"scores: fold {fold}: {len(rows)} tiles")
    tables = {name: pd.concat(parts, ignore_index=True) for name, parts in frames.items()}
    return FoldScores(**tables, classes=classes_of(tiles))


def classes_of(tiles: TileSet) -> tuple[str, ...]:
    """Names of the foreground classes: those of the data set's `labels`, else "class 1" and so on."""
    data = tiles.manifest["data"]
    if data.get("labels"):
        return class_names(data["labels"])[1:]
    return tuple(f"class {k}" for k in range(1, data["classes"]))


def _remote(work: Callable[..., Any], plan: ResourcePlan) -> Any:
    return ray.remote(num_cpus=1, num_gpus=min(plan.gpus_per_worker, _GPU_SHARE))(work)


def _tasks(cells: Sequence[Cell], block: int) -> Iterator[list[Cell]]:
    """The cells in order, as many together as have `block` tiles; one at least."""
    part: list[Cell] = []
    for cell in cells:
        if part and sum(len(other.rows) for other in part) + len(cell.rows) > block:
            yield part
            part = []
        part.append(cell)
    if part:
        yield part


def joined(places: pd.DataFrame, found: Sequence[FoundInCell]) -> dict[str, pd.DataFrame]:
    """The tables of `FoldScores`, without the column fold, from the cells of all places."""
    by_place: dict[int, list[FoundInCell]] = {}
    for cell in found:
        by_place.setdefault(cell.place, []).append(cell)
    rows, lesions = [], []
    for number, cells in by_place.items():
        counts = LesionCounts()
        for k in cells[0].classes:
            true, predicted = join_parts([cell.classes[k] for cell in cells])
            hits, matched = int(true["matched"].sum()), int(predicted["matched"].sum())
            counts += LesionCounts(hits, len(true) - hits, matched, len(predicted) - matched)
            lesions.append(_lesion_rows(number, k, true))
        pixels = pd.concat([cell.pixels for cell in cells]).sum().to_dict()
        rows.append({"place": number, **places.loc[number], **{name: getattr(counts, name) for name in COUNTS}})
        rows[-1] |= pixels
    # A tile that reaches into several cells was looked at in each.
    tiles = pd.concat([cell.tiles for cell in found]).drop_duplicates("tile").sort_values("tile", ignore_index=True)
    return {"tiles": tiles, "places": pd.DataFrame(rows), "lesions": pd.concat(lesions, ignore_index=True)}


def _lesion_rows(place: int, label: int, lesions: pd.DataFrame) -> pd.DataFrame:
    """The true components of a class in a place; none of them, too, so that the columns are there in any case."""
    numbers = {"place": place, "label": label, "lesion": np.arange(1, len(lesions) + 1)}
    renamed = lesions.rename(columns={"matched": "found"})
    return pd.DataFrame(numbers, index=renamed.index).join(renamed[["area", "brightness", "found"]])


def predict_tiles(checkpoint: str, tiles: TileSet, rows: Sequence[int], plan: ResourcePlan) -> dict[int, Example]:
    """What a checkpoint finds on a few tiles, by row, worked out on the cluster."""
    if not len(rows):
        return {}
    examples: dict[int, Example] = ray.get(
        _remote(predict_block, plan).remote(checkpoint, tiles.uri, list(rows), tiles.options, tiles.domain)
    )
    return examples
