"""A whole study written straight to disk and to an MLflow store: volumes, tiles, a GAN, synthetic tiles, two folds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from mlflow_store import make_store
from tile_sets import finish

from metgan_dist.recipe import Recipe, Tracking
from metgan_dist.tiles.survey import fingerprint
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.tracking import RunLogger, start_run
from metgan_dist.volumes.dataset import volume_refs

SHAPE, EDGE = (4, 32, 32), 16
SPLITS = {"v0": "train", "v1": "train", "v2": "val", "v3": "test"}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class World:
    """Writes runs, tile sets and checkpoints under one storage folder, as the jobs leave them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.storage = folder, folder / "runs"
        self.storage.mkdir()
        self.store = make_store(self.storage / "mlflow.db")
        self.data = folder / "data"
        self.ids: dict[str, str] = {}  # MLflow's, by the run's name

    def volumes(self, names=tuple(SPLITS), base="data") -> Recipe:
        """Random volumes in a folder, and the recipe that names them."""
        listed = []
        for number, name in enumerate(names):
            paths = {channel: f"{channel}-{number}.tif" for channel in ("anatomy", "tumour", "label")}
            for part, path in enumerate(paths.values()):
                (self.folder / base).mkdir(exist_ok=True)
                voxels = np.random.default_rng([number, part]).integers(0, 2 if part == 2 else 999, SHAPE)
                file = self.folder / base / path
                tifffile.imwrite(file, voxels.astype(np.uint16), metadata={"axes": "ZYX"}, photometric="minisblack")
            label = paths.pop("label")
            listed.append({"id": name, "path": paths, "label": label})
        data = {"path": str(self.folder / base), "anatomy": "anatomy", "volumes": listed}
        return Recipe.model_validate({"data": data, "tiles": {"kind": "slice", "size": EDGE, "gap": 0}})

    def volumes_at(self, base: str) -> Recipe:
        """The recipe of the study's volumes in another folder, nothing written."""
        recipe = self.recipe
        return recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": str(self.folder / base)})})

    def index(self, splits=SPLITS) -> pd.DataFrame:
        """One row a tile of 16 x 16 in every slice of every volume; `splits` by volume, or one for each slice of it."""
        rows = []
        for volume, split in splits.items():
            for z in range(SHAPE[0]):
                side = split if isinstance(split, str) else split[z]
                for y in (0, EDGE):
                    for x in (0, EDGE):
                        box = {"z0": z, "z1": z + 1, "y0": y, "y1": y + EDGE, "x0": x, "x1": x + EDGE}
                        rows.append({"volume": volume, "organ": "", "split": side, "fold": -1, **box})
        index = pd.DataFrame(rows)
        return index.assign(shard="s", position=np.arange(len(index)), label_row=np.arange(len(index)))

    def write(self, folder: Path, index: pd.DataFrame, manifest: dict[str, Any]) -> TileSet:
        """A tile set; `manifest` completed."""
        folder.mkdir(parents=True)
        if "parts" not in manifest:
            (folder / "shards" / "s.zarr").mkdir(parents=True)  # no pixel is ever read
        return finish(folder, index, {**manifest, "tile_shape": [EDGE, EDGE]})

    def tiles(self, name: str, recipe: Recipe, splits=SPLITS, **changes: Any) -> TileSet:
        """Real tiles of a recipe's volumes."""
        manifest = {
            "fingerprint": fingerprint(recipe.data, recipe.tiles, volume_refs(recipe.data)),
            "data": recipe.data.model_dump(mode="json", exclude={"path"}),
            "tiles": recipe.tiles.model_dump(mode="json"),
            "volumes": [{"id": volume, "shape": list(SHAPE)} for volume in splits],
            **changes,
        }
        return self.write(self.storage / "tiles" / name, self.index(splits), manifest)

    def synthetic(
        self, name: str, source: TileSet, checkpoint: Path, run: str | None, rows=range(16), labels=(0, 1), **more: Any
    ) -> TileSet:
        """Synthetic tiles on the source rows `rows` (by default those of v0), each with the labels of rows `labels`."""
        rows = list(rows)
        origins = [{"tile": row} for row in labels] + [{"file": "drawn.png", "sha256": "0" * 64}]
        index = source.index.iloc[rows].reset_index(drop=True)
        index = index.assign(
            split=["train"] * (len(rows) - 1) + ["rejected"],
            source_tile=rows,
            kind="merged",
            label_sources=json.dumps(origins),
            label_row=np.arange(len(rows)),
            position=np.arange(len(rows)),
        )
        made = {
            "settings": {"count": len(rows), "seed": 0},
            "model": {
                "uri": str(checkpoint),
                "sha256": sha256(checkpoint / "state.pt"),
                "method": "metgan",
                "run": run,
            },
            "tiles": {"uri": source.uri, "digest": source.digest},
            "segmentor": None,
            **more,
        }
        manifest = {key: source.manifest[key] for key in ("data", "tiles", "volumes")}
        return self.write(self.storage / name / "tiles", index, {**manifest, "synthesis": made})

    def mixed(self, name: str, real: TileSet, *others: TileSet) -> TileSet:
        """The training and test tiles of several sets as one."""
        parts = [real, *others]
        frames = [part.index.assign(part=number) for number, part in enumerate(parts)]
        index = pd.concat([frame[frame["split"] != "rejected"] for frame in frames], ignore_index=True)
        manifest = {key: real.manifest[key] for key in ("data", "tiles", "volumes")}
        manifest["parts"] = [{"uri": part.uri, "digest": part.digest} for part in parts]
        return self.write(self.storage / name, index.assign(label_row=np.arange(len(index))), manifest)

    def run(self, name: str, job: str, recipe: Recipe | None = None, parent: str | None = None, **sets: Any) -> str:
        """A finished run with its folder; `sets` are logged data sets by context (one or several). Returns its id."""
        folder = self.storage / name
        folder.mkdir(parents=True, exist_ok=True)
        tags = {"job": job, "folder": str(folder), **({"mlflow.parentRunId": self.ids[parent]} if parent else {})}
        run_id = self.ids[name] = start_run(self.store, Tracking(), name, tags)
        tree = {"job": job, "mlflow_run_id": run_id, "recipe": (recipe or Recipe()).model_dump(mode="json")}
        (folder / "run.json").write_text(json.dumps(tree))
        (folder / "result.json").write_text(json.dumps({"tracking_uri": self.store, "job": job}))
        with RunLogger(self.store, run_id, self.folder / "spool") as log:
            for context, given in sets.items():
                for tiles in given if isinstance(given, list) else [given]:
                    log.dataset(f"tiles-{tiles.digest[:8]}", tiles.uri, tiles.digest, context, len(tiles.index))
        return run_id

    def checkpoint(self, run: str, content: bytes = b"weights") -> Path:
        folder = self.storage / run / "train" / "metgan" / "step-8"
        folder.mkdir(parents=True)
        (folder / "state.pt").write_bytes(content)
        return folder

    def started_from(self, run: str, other: str, checkpoint: Path, stage: str | None = None) -> None:
        """Put on record that a run began, or replaced a stage, with the weights of another one's checkpoint."""
        record = self.storage / run / "run.json"
        start = {"uri": str(checkpoint), "sha256": sha256(checkpoint / "state.pt"), "method": "metgan"}
        start["run"] = self.ids[other]
        taken = {"start_from": start} if stage is None else {"stages_from": {stage: start}}
        record.write_text(json.dumps({**json.loads(record.read_text()), **taken}))

    def on_tiles(self, tiles: TileSet) -> Recipe:
        """The recipe of a run that took finished tiles."""
        return Recipe.model_validate({"data": {"path": tiles.uri}})


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def write_study(world: World) -> World:
    """cut -> gan -> synth -> downstream with the nested run downstream-fold-0; its sets are attributes."""
    recipe = world.recipe = world.volumes()
    world.real = world.tiles("cells", recipe)
    world.run("cut", "make_tiles", recipe, training=world.real)
    world.run("gan", "train_metgan", world.on_tiles(world.real), training=world.real)
    world.weights = world.checkpoint("gan")
    world.made = world.synthetic("synth", world.real, world.weights, world.ids["gan"])
    world.run("synth", "synthesize", world.on_tiles(world.real), generated=world.made)
    world.mixture = world.mixed("downstream/fold-0", world.real, world.made)
    world.run("downstream", "segment_folds", training=[world.real, world.made])
    world.run("downstream-fold-0", "train_segmentor", parent="downstream", training=world.mixture)
    return world


@pytest.fixture
def study(world) -> World:
    """The study for a test that changes it."""
    return write_study(world)


@pytest.fixture(scope="session")
def sound(tmp_path_factory) -> World:
    """The study for tests that only look at it."""
    return write_study(World(tmp_path_factory.mktemp("sound")))


@pytest.fixture
def edit() -> Callable[..., None]:
    """edit(tiles, change) changes a manifest in place."""

    def change_manifest(tiles: TileSet, change: Callable[[dict[str, Any]], None]) -> None:
        path = Path(tiles.uri) / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return change_manifest
