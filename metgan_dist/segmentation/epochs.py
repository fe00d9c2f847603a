"""What was noted of the test volumes while folds trained (`segmentation.test_every`), as tables.

epochs.csv              fold, images, epoch (passes over the fold's training tiles), train_dice, train_loss,
                        test_dice, test_loss: Dice is the mean over volumes with a lesion
epoch-volumes.parquet   fold, images, epoch, volume, patient, voxels (true ones), found (voxels), dice: 1 where
                        nothing is to be found and nothing was
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.recipe import Recipe
from metgan_dist.storage import Options, read_bytes
from metgan_dist.tiles.splits import group_of
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.training.onlooker import held_out_volumes, read_tests

CURVES, VOLUMES = "epochs.csv", "epoch-volumes.parquet"
ARTEFACTS = {CURVES: "epochs", VOLUMES: "epoch_volumes"}


def epoch_files(
    tiles: TileSet, recipes: Mapping[int, Recipe], results: Mapping[int, dict[str, Any]]
) -> dict[str, bytes]:
    """The tables of the folds, by file; none where nothing was noted. `recipes`, `results`: of the folds' trainings."""
    noted = {
        fold: read_tests(str(result["artefacts"]["last_checkpoint"]), tiles.options) for fold, result in results.items()
    }
    if not any(noted.values()):
        return {}
    epoch = {fold: int(recipe.training.validate_every) for fold, recipe in recipes.items()}
    curves = [
        {"fold": fold, "images": one["images"], "epoch": one["images"] / epoch[fold]}
        | {f"{sample}_{name}": one[sample][name] for sample in ("train", "test") for name in ("dice", "loss")}
        for fold, listed in noted.items()
        for one in listed
    ]
    volumes = [_by_volume(tiles, one, fold, epoch[fold]) for fold, listed in noted.items() for one in listed]
    packed = io.BytesIO()
    pd.concat(volumes, ignore_index=True).to_parquet(packed, index=False)
    return {CURVES: pd.DataFrame(curves).to_csv(index=False).encode(), VOLUMES: packed.getvalue()}


def _by_volume(tiles: TileSet, noted: Mapping[str, Any], fold: int, epoch: int) -> pd.DataFrame:
    """A row a test volume of one moment of a training."""
    rows = tiles.positions("test", "tumour", "label")
    true = held_out_volumes(tiles, rows)
    people = group_of(tiles.index.iloc[rows]).groupby(tiles.index["volume"].iloc[rows]).first()
    overlap, size = (np.array(noted["test"][name], dtype=np.int64) for name in ("overlap", "size"))
    return pd.DataFrame(
        {
            "fold": fold,
            "images": noted["images"],
            "epoch": noted["images"] / epoch,
            "volume": true.index,
            "patient": people[true.index].to_numpy(),
            "voxels": true.to_numpy(),
            "found": size - true.to_numpy(),
            "dice": np.where(size > 0, 2 * overlap / np.maximum(size, 1), 1.0),
        }
    )


def read_epochs(artefacts: Mapping[str, Any], options: Options | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables of a finished cross-validation, by the artefacts of its result: curves, and volumes."""
    curves, volumes = (io.BytesIO(read_bytes(str(artefacts[ARTEFACTS[name]]), options)) for name in (CURVES, VOLUMES))
    return pd.read_csv(curves), pd.read_parquet(volumes)
