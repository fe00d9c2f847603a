"""Tile sets and trained runs written straight to disk: a comparison needs neither volumes nor a training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tile_sets import finish, flat, write_domains
from untrained import write_untrained

from metgan_dist.recipe import Recipe
from metgan_dist.tiles.shards import write_shard
from metgan_dist.tiles.tile_set import TileSet

EDGE = 64


@pytest.fixture(scope="session")
def write_tiles(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TileSet]:
    """write(test=, train=, ...) -> random tiles of 64 pixels with a square of foreground in every other one."""

    def write(
        test: int = 5,
        train: int = 2,
        *,
        seed: int = 0,
        shuffled: bool = False,
        anatomy: str = "autofluorescence",
        classes: int = 2,
        volumes: int = 2,
    ) -> TileSet:
        folder = str(tmp_path_factory.mktemp("tiles"))
        random, count = np.random.default_rng(seed), test + train
        pixels = {
            role: random.integers(0, 1000, (count, EDGE, EDGE)).astype(np.uint16) for role in ("anatomy", "tumour")
        }
        label = np.zeros((count, EDGE, EDGE), np.uint8)
        label[::2, 8:24, 8:40] = 1
        write_shard(folder, "s", {**pixels, "label": label}, {}, {"rows": []}, None)
        rows = np.arange(count)
        index = pd.DataFrame(
            {
                "volume": [f"v{row % volumes}" for row in rows],
                "patient": "",
                "name": "",
                **flat(rows, EDGE),
                "shard": "s",
                "position": rows,
                "split": ["train"] * train + ["test"] * test,
                "foreground": label.sum(axis=(1, 2)),
                **{f"{role}_{end}": float(end == "high") * 999 for role in pixels for end in ("low", "high")},
                "label_row": [*(rows[:train][::-1] if shuffled else rows[:train]), *rows[train:]],
            }
        )
        data = {"anatomy": anatomy, "tumour": "tumour", "label": None, "classes": classes}
        manifest = {
            "tile_shape": [EDGE, EDGE],
            "data": {**data, "shuffled_labels": 0.5 if shuffled else 0.0},
            "tiles": {"size": [EDGE]},
            "volumes": [{"id": f"v{number}", "shape": [count, EDGE, EDGE]} for number in range(volumes)],
            "counts": {"train": train, "val": 0, "test": test, "unseen": 0},
        }
        return finish(folder, index, manifest)

    return write


@pytest.fixture
def tiles(tmp_path: Path) -> TileSet:
    """Two domains, ct and mr, with two training and six test tiles each, these of three patients."""
    side = ("train",) * 2 + ("test",) * 6
    made = write_domains(tmp_path / "tiles", source=side, target=side)
    made.index["patient"] = [f"{domain} {k // 2 % 3}" for k, domain in enumerate(made.index["domain"])]
    return TileSet.write(made.uri, made.index, made.manifest)


def recipe_of(name: str, **sections: dict) -> Recipe:
    method = {"name": name, "width": 1 / 16, "segmentor_width": 1 / 16}
    return Recipe.model_validate({"method": method, "tiles": {"size": [EDGE]}, **sections})


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """checkpoint(method, seed=) -> the folder of an untrained checkpoint."""

    def write(name: str, seed: int = 0) -> str:
        recipe = recipe_of(name, training={"seed": seed})
        return write_untrained(tmp_path_factory.mktemp(name), recipe)

    return write


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """write(name, tiles, ...) -> the folder of a run of train_metgan as far as its files tell."""

    def write(name: str, tiles: TileSet | None, *, method: str = "metgan", **changes: object) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
        result = {
            "job": "train_metgan",
            "run": name,
            "status": "finished",
            "recipe": recipe_of(method).model_dump(mode="json"),
            "mlflow_run_id": "0" * 31 + "1",
            "artefacts": {"best_checkpoint": "b", "judge": "j", "images": 8, "tiles": tiles.uri if tiles else "gone"},
            "timings": {"training": 2.0},
            **changes,
        }
        (folder / "result.json").write_text(json.dumps(result))
        return folder

    return write
