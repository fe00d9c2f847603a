"""Source tiles and generators written straight to disk: synthesis needs neither volumes nor a training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest
from owned import owned
from tile_sets import finish
from untrained import write_untrained

from metgan_dist.recipe import Recipe
from metgan_dist.tiles.shards import write_shard
from metgan_dist.tiles.tile_set import TileSet

EDGE = 64


@pytest.fixture(scope="session")
def write_source(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TileSet]:
    """write(splits, ...) -> tiles of 64 pixels, two volumes in turn, a lesion of its own place and class in each.

    Tissue is the left three quarters of a tile; the lesion of tile k lies at column 4 k, modulo 48.
    """

    def write(
        splits: Sequence[str] = ("train",) * 6 + ("val", "test"),
        *,
        volumes: Sequence[str] = ("v0", "v1"),
        organs: Sequence[str] = ("lung", "liver"),
        classes: int = 2,
        labelled: bool = True,
        anatomy: str = "autofluorescence",
        edge: int = EDGE,
    ) -> TileSet:
        folder = str(tmp_path_factory.mktemp("source"))
        random, count = np.random.default_rng(0), len(splits)
        pixels = {role: random.integers(400, 1000, (count, edge, edge)).astype(np.uint16) for role in ("a", "t")}
        pixels["a"][:, :, 3 * edge // 4 :] = 0
        label = np.zeros((count, edge, edge), np.uint8)
        for k in range(count if labelled else 0):
            label[k, 10 : 18 + k, 4 * k % 48 : 4 * k % 48 + 8] = 1 + k % (classes - 1)
        roles = {"anatomy": pixels["a"], "tumour": pixels["t"], "label": label}
        write_shard(folder, "s", roles, {}, {"rows": []}, None)
        rows = np.arange(count)
        index = pd.DataFrame(
            {
                "volume": [volumes[row % len(volumes)] for row in rows],
                "organ": [organs[row % len(organs)] for row in rows],
                **{f"{axis}{side}": edge * rows if axis == "z" else edge * side for axis in "zyx" for side in (0, 1)},
                "shard": "s",
                "position": rows,
                "split": splits,
                "fold": 0,
                "foreground": label.sum(axis=(1, 2)),
                **{
                    f"{role}_{end}": float(end == "high") * 999
                    for role in ("anatomy", "tumour")
                    for end in ("low", "high")
                },
                "label_row": rows,
            }
        )
        manifest = {
            "tile_shape": [edge, edge],
            "data": {"anatomy": anatomy, "tumour": "tumour", "label": None, "classes": classes},
            "tiles": {"size": [edge]},
            "volumes": [{"id": volume} for volume in volumes],
            "counts": {split: list(splits).count(split) for split in ("train", "val", "test", "unseen")},
        }
        return finish(folder, index, manifest)

    return write


@pytest.fixture(scope="session")
def source(write_source: Callable[..., TileSet]) -> TileSet:
    return write_source()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """checkpoint(method, seed=, tiles=, judge=) -> an untrained checkpoint, within a run where `tiles` are given."""

    def write(
        name: str = "metgan",
        *,
        seed: int = 0,
        tiles: TileSet | None = None,
        artefacts: dict[str, str] | None = None,
        **sections: dict[str, object],
    ) -> str:
        method = owned(name, width=1 / 16, segmentor_width=1 / 16, latent=8, perceptual=0)
        tree = {"method": method, "tiles": {"size": [EDGE]}, "training": {"seed": seed}, **sections}
        recipe = Recipe.model_validate(tree)
        run = tmp_path_factory.mktemp("run")
        folder = run / "train" / name / "images-000000000"
        write_untrained(folder, recipe)
        if tiles is not None:
            made = {"tiles": tiles.uri, "best_checkpoint": str(folder), **(artefacts or {})}
            known = {"job": "train_metgan", "mlflow_run_id": "0" * 31 + "1", "recipe": {}}
            (run / "run.json").write_text(json.dumps(known))
            (run / "result.json").write_text(json.dumps({"status": "finished", "artefacts": made}))
        return str(folder)

    return write
