"""Data sets of lesion masks alone, as NIfTI files with a dataset.yaml, and their tiles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import yaml
from two_domains import cut_here

from metgan_dist.recipe import Recipe
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.volumes.dataset import resolve_data

SHAPE = (10, 20, 24)  # z, y, x
SPACING = (3.0, 1.5, 1.0)


def ellipsoids(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """One or two of them, uint8 (z, y, x), on one side of the middle."""
    random = np.random.default_rng(seed)
    places, mask = np.indices(shape), np.zeros(shape, bool)
    for _ in range(1 + seed % 2):
        centre = [edge * random.uniform(0.3, 0.7) for edge in shape[:2]] + [shape[2] * random.uniform(0.6, 0.8)]
        radius = [random.uniform(1.5, 2.5) / SPACING[0] * 2, *(random.uniform(2, 4) for _ in range(2))]
        terms = [((at - mid) / own) ** 2 for at, mid, own in zip(places, centre, radius, strict=True)]
        mask |= sum(terms) <= 1
    return mask.astype(np.uint8)


def affine(shape: tuple[int, int, int] = SHAPE, shift: float = 0.0) -> np.ndarray:
    """RAS, about the middle."""
    z, y, x = SPACING
    centre = [-x * shape[2] / 2 + shift, -y * shape[1] / 2, -z * shape[0] / 2]
    return np.array([[x, 0, 0, centre[0]], [0, y, 0, centre[1]], [0, 0, z, centre[2]], [0, 0, 0, 1]])


def write_masks(folder: Path, count: int = 12, masks: Mapping[int, np.ndarray] | None = None, **described: Any) -> Path:
    """A data set of ellipsoids, mask k being of patient k; `masks` instead of some of them."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(count):
        mask = (masks or {}).get(number, ellipsoids(number))
        nibabel.save(nibabel.Nifti1Image(mask.T, affine(mask.shape)), folder / f"m{number:02d}.nii.gz")
        entries.append({"id": f"m{number:02d}", "label": f"m{number:02d}.nii.gz", "patient": f"p{number:02d}"})
    tree = {"labels": {1: "lesion"}, **described, "volumes": entries}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder


def recipe_of(path: Path, **sections: Any) -> Recipe:
    """A recipe of the mask GAN, narrow, on whole masks of 8 x 16 x 24; the description of the data set read in."""
    tiles = {"kind": "crop", "size": [8, 16, 24], "stride": [8, 16, 24], "edge": "drop", "gap": 0}
    method = {"name": "lesion_wgan", "width": 1 / 16, "latent": 4, "critic_moves": 2}
    training = {"augment": False, "batch_size": 4, "learning_rate": 1e-3}
    recipe = Recipe.model_validate(
        {
            **sections,
            "data": {"path": str(path), **sections.get("data", {})},
            "tiles": {**tiles, **sections.get("tiles", {})},
            "method": {**method, **sections.get("method", {})},
            "training": {**training, **sections.get("training", {})},
        }
    )
    return recipe.model_copy(update={"data": resolve_data(recipe.data)})


def cut_masks(folder: Path, count: int = 12, **sections: Any) -> TileSet:
    """Tiles of a data set of masks, both written to a folder."""
    return cut_here(recipe_of(write_masks(folder / "masks", count), **sections), folder / "tiles")
