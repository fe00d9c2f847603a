"""How a segmentor in training meets training and test tiles, noted on the way: what paper 4 draws and averages.

Nothing is chosen by it: checkpoints are chosen by the validation tiles, and what is noted here lies in the checkpoint's
meta.json, as the record of the training until then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist

from metgan_dist.methods.method import Method
from metgan_dist.scores.labels import stacked_counts
from metgan_dist.storage import Options, join, read_json
from metgan_dist.tasks import GENERATED, Task
from metgan_dist.tasks.pictures import on_device
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.training.step import Stepper

BATCH = 4


@dataclass
class Onlooker:
    """Scores the live segmentor on rows by sample (`train`, `test`); every rank takes its part of them.

    Of each sample it gives `dice`, the mean over volumes with a lesion (NaN without), `loss`, the mean over tiles of
    the losses of batches of four, and `overlap` and `size`, voxels in both maps and in one plus the other, by volume in
    the order of `held_out_volumes`. Of tiles that overlap, voxels count as often as they are seen.
    """

    task: Task
    device: torch.device
    samples: Mapping[str, np.ndarray]
    rank: int = 0
    world: int = 1

    def __call__(self, stepper: Stepper) -> dict[str, Any]:
        with stepper.inference() as method:
            own = {name: self._scored(rows[self.rank :: self.world], method) for name, rows in self.samples.items()}
        parts: list[Any] = [own]
        if self.world > 1:
            parts *= self.world
            dist.all_gather_object(parts, own)
        joined = {name: pd.concat([part[name] for part in parts]) for name in self.samples}
        return {name: _noted(self.task.tiles, self.samples[name], scored) for name, scored in joined.items()}

    def _scored(self, rows: np.ndarray, method: Method) -> pd.DataFrame:
        """A row a tile: tile, overlap, size, and the loss of the batch that it was in."""
        (player,) = method.players()
        frames = [pd.DataFrame({"tile": [], "overlap": [], "size": [], "loss": []})]
        for batch in tile_batches(self.task.tiles, rows, BATCH):
            here = on_device(batch, self.device)
            scorer = self.task.scorer(GENERATED)
            self.task.score(GENERATED, scorer, here, method)
            table = scorer.scored().per_tile
            overlap, size = stacked_counts(table).sum(axis=1).T
            loss = sum(float(term) for term in method.losses(player.name, here, {})[0].values())
            frames.append(pd.DataFrame({"tile": table["tile"], "overlap": overlap, "size": size, "loss": loss}))
        return pd.concat(frames[1:] or frames)


def held_out_volumes(tiles: TileSet, rows: np.ndarray) -> pd.Series:
    """Volumes of the tiles `rows`, by name in ascending order, and how many labelled pixels their tiles hold."""
    own = tiles.index.iloc[rows]
    return own.groupby("volume", sort=True)["foreground"].sum()


def _noted(tiles: TileSet, rows: np.ndarray, scored: pd.DataFrame) -> dict[str, Any]:
    true = held_out_volumes(tiles, rows)
    volume = tiles.index["volume"].iloc[scored["tile"].astype(int)].to_numpy()
    sums = scored[["overlap", "size"]].groupby(volume).sum().reindex(true.index, fill_value=0)
    ill = sums[true > 0]
    dice = float((2 * ill["overlap"] / ill["size"]).mean())
    counts = {name: sums[name].astype(int).tolist() for name in ("overlap", "size")}
    return {"dice": dice, "loss": float(scored["loss"].mean()), **counts}


def read_tests(checkpoint: str, options: Options | None) -> list[dict[str, Any]]:
    """What was noted until a checkpoint, in order, each with the `images` at which it was; empty where nothing was."""
    noted: list[dict[str, Any]] = read_json(join(checkpoint, "meta.json"), options).get("tested", [])
    return noted
