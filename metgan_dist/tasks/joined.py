"""Label maps found on whole places, joined from tiles: nothing is counted twice, and units are what is independent.

A place is a volume for crops, a plane for slices (`tiles.mosaic`). Where tiles overlap, what is found on them is
averaged before a voxel gets its label, and surfaces are those of the place, not of its tiles.

    whole = WholeScores.of(tiles, rows, find, device)
    whole.summary("s_score", "target")

A score is of a unit (a patient where one is known, else a volume; each of separate images without patients): the Dice
of a region over all its places, and the mean over the regions that it holds or that were found in it. Scores of several
units are averaged, each counting once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metgan_dist.networks.spade import one_hot_label
from metgan_dist.recipe.labels import class_names
from metgan_dist.scores.labels import mean_dice, stacked_counts, tile_counts
from metgan_dist.scores.surface import SURFACE_SCORES, surface_distances
from metgan_dist.tasks.pictures import on_device
from metgan_dist.tiles.geometry import AXES, in_plane
from metgan_dist.tiles.mosaic import Canvas, Cell, mosaic
from metgan_dist.tiles.splits import group_of
from metgan_dist.tiles.stream import Batch, tile_batches
from metgan_dist.tiles.tile_set import TileSet

BATCH = 4
MILLIMETRES = {"millimeter": 1.0, "micrometer": 1e-3}
# Scores of the classes of a batch's tiles, (N, classes, ...), whose highest is the label.
Finder = Callable[[Batch], Tensor]


def region_names(tiles: TileSet) -> tuple[str, ...]:
    """Names of the foreground classes: those of the data set's `labels`, else "class 1" and so on."""
    data = tiles.manifest["data"]
    own = (domain.get("labels") for domain in data.get("domains", {}).values())
    labels = data.get("labels") or next((named for named in own if named), None)
    if not labels:
        return tuple(f"class {k}" for k in range(1, data["classes"]))
    return class_names(dict(labels))[1:]  # of a map, or of pairs


@dataclass(frozen=True)
class WholeScores:
    """What was found on whole places.

    Attributes:
        places: a row a place, with the columns volume, unit, and by foreground class k overlap_k, size_k (pixels, as
            `scores.labels`), assd_k, hd95_k (NaN where found or true map lack the class).
        regions: names of the foreground classes.
        unit: of the distances, "mm", or "voxels" where the spacing of a volume is not known.
    """

    places: pd.DataFrame
    regions: tuple[str, ...]
    unit: str

    @staticmethod
    def of(tiles: TileSet, rows: np.ndarray, find: Finder, device: torch.device) -> WholeScores:
        """Let `find` look at the tiles `rows`, which have labels, and join what it finds; a place's labels are held."""
        places, cells = mosaic(tiles.index, tiles.shape, rows)
        names, unit = region_names(tiles), length_unit(tiles, rows)
        scored = []
        for number, place in places.iterrows():
            own = [cell for cell in cells if cell.place == number]
            found, true = _joined(tiles, own, find, len(names) + 1, device)
            first = tiles.index.iloc[[own[0].rows[0]]]
            voxel = voxel_edges(tiles, first, str(place["view"])) if unit == "mm" else None
            counts = {name: int(one[0]) for name, one in tile_counts(found, true, len(names) + 1).items()}
            distances = surface_distances(found, true, len(names) + 1, voxel)
            image = str(first["name"].iloc[0]) if "name" in first else ""
            group = group_of(first).iloc[0]
            separate = image and group.startswith("volume ")
            scored.append(
                {
                    "volume": place["volume"],
                    "unit": f"{group} {image}" if separate else group,
                    **counts,
                    **{name: float(one[0]) for name, one in distances.items()},
                }
            )
        return WholeScores(pd.DataFrame(scored), names, unit)

    def by_unit(self) -> pd.DataFrame:
        """A row a unit, the columns dice, assd, hd95, and of each region dice/<name> and so on; NaN for none."""
        rows = {}
        for unit, own in self.places.groupby("unit", sort=True):
            sums = stacked_counts(own).sum(axis=0)
            row = {"dice": float(mean_dice(sums))}
            row |= {f"dice/{name}": float(mean_dice(sums[[k]])) for k, name in enumerate(self.regions)}
            for score in SURFACE_SCORES:
                of_regions = {
                    f"{score}/{name}": _mean(own[f"{score}_{k}"]) for k, name in enumerate(self.regions, start=1)
                }
                row |= {score: _mean(of_regions.values()), **of_regions}
            rows[unit] = row
        return pd.DataFrame.from_dict(rows, orient="index")

    def by_name(self, dice: str, side: str) -> pd.DataFrame:
        """`by_unit` with the names of scores: the Dice is called `dice`, and `side` says in which direction.

        With "s_score" and "target": s_score_target, s_score_target/<region>, assd_target, hd95_target, ....
        """
        table = self.by_unit()
        if len(self.regions) < 2:  # a single region is the whole
            table = table[["dice", *SURFACE_SCORES]]
        return table.rename(columns=lambda name: _called(name, dice, side))

    def summary(self, dice: str, side: str) -> dict[str, float]:
        """Means over units of what `by_name` has; a score that no unit has is left out."""
        means = {name: _mean(column) for name, column in self.by_name(dice, side).items()}
        return {str(name): mean for name, mean in means.items() if not np.isnan(mean)}


def _called(name: str, dice: str, side: str) -> str:
    score, slash, region = name.partition("/")
    return f"{dice if score == 'dice' else score}_{side}{slash}{region}"


def _mean(values: Iterable[float]) -> float:
    """The mean of those that are numbers; NaN of none."""
    numbers = np.array([value for value in values if not np.isnan(value)], dtype=np.float64)
    return float(numbers.mean()) if len(numbers) else float("nan")


def _joined(
    tiles: TileSet, cells: Sequence[Cell], find: Finder, classes: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Found and true labels (1, [D,] H, W) of a place: a cell's probabilities at a time, whole only as labels."""
    whole = tuple(length - 1 for length in cells[0].whole)
    maps = np.zeros((2, *whole), np.uint8)
    for cell in cells:
        found, true = Canvas(cell, classes), Canvas(cell, classes)
        corners = dict(cell.tiles())
        for batch in tile_batches(tiles, cell.rows, BATCH):
            scores = find(on_device(batch, device)).float().cpu().numpy()
            labels = one_hot_label(batch["label"], classes, torch.float32).numpy()
            for row, own, label in zip(batch["tile"].tolist(), scores, labels, strict=True):
                found.add(corners[row], own)
                true.add(corners[row], label)
        inside = tuple(slice(low, high) for low, high in zip(cell.low, cell.high, strict=True))
        core = tuple(slice(0, -1) for _ in whole)
        for labels_of, canvas in zip(maps, (found, true), strict=True):
            labels_of[inside] = canvas.mean().argmax(axis=0)[core]
    predicted, label = (torch.from_numpy(one[None].astype(np.int64)) for one in maps)
    return predicted, label


def length_unit(tiles: TileSet, rows: np.ndarray) -> str:
    """ "mm" where the size of a pixel is known of all these tiles, else "voxels": no mean mixes the two."""
    units = {volume["id"]: volume.get("unit") for volume in tiles.manifest["volumes"]}
    own = tiles.index.iloc[rows]
    known = own["volume"].map(units).isin(MILLIMETRES)
    sizes = own.reindex(columns=[f"spacing_{axis}" for axis in AXES]).astype(float)  # sets of old have none
    return "mm" if known.all() and np.isfinite(sizes.to_numpy()).all() else "voxels"


def voxel_edges(tiles: TileSet, tile: pd.DataFrame, view: str) -> list[float]:
    """Millimetres of a pixel along each axis of a tile."""
    units = {volume["id"]: volume.get("unit") for volume in tiles.manifest["volumes"]}
    scale = MILLIMETRES[str(units[tile["volume"].iloc[0]])]
    return [float(tile[f"spacing_{AXES[axis]}"].iloc[0]) * scale for axis in in_plane(view)]
