"""Data sets of brains of which nobody has drawn a map of tissues, as NIfTI files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import yaml

from metgan_dist.recipe import Recipe
from metgan_dist.volumes.dataset import resolve_data

FLUID, WHITE, GREY = 1, 2, 3
NAMED = {FLUID: "CSF", WHITE: "white matter", GREY: "grey matter"}
SHAPE = (4, 48, 48)  # z, y, x
SIGNAL = np.array([10, 80, 200, 300])  # outside, fluid, white, grey


def head() -> np.ndarray:
    """A square brain, its outer ring grey, with fluid in its middle, uint8 (z, y, x)."""
    tissue = np.zeros(SHAPE, np.uint8)
    tissue[:, 4:44, 4:44] = GREY
    tissue[:, 12:36, 12:36] = WHITE
    tissue[:, 20:28, 20:28] = FLUID
    return tissue


def image_of(tissue: np.ndarray, seed: int = 0) -> np.ndarray:
    """Its image with little noise, int16."""
    noise = np.random.default_rng(seed).normal(0, 5, tissue.shape)
    return np.rint(SIGNAL[tissue] + noise).clip(0).astype(np.int16)


def lesion() -> np.ndarray:
    """320 voxels of one side, uint8."""
    there = np.zeros(SHAPE, np.uint8)
    there[1:3, 8:24, 8:18] = 1
    return there


def write_heads(folder: Path) -> Path:
    """s, with a lesion twice as bright as grey matter, and h, healthy, of patients of these names."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate("sh"):
        dwi = image_of(head(), seed)
        if name == "s":
            dwi[lesion() > 0] = 2 * SIGNAL[GREY]
            nibabel.save(nibabel.Nifti1Image(lesion().T, np.eye(4)), folder / "lesion.nii.gz")
        nibabel.save(nibabel.Nifti1Image(dwi.T, np.eye(4)), folder / f"{name}.nii.gz")
    return describe_heads(folder)


def describe_heads(folder: Path, **changes: Any) -> Path:
    """Their dataset.yaml with other fields, or other ones of `s` and `h`; None leaves one out."""
    own = {"s": {"label": "lesion.nii.gz"}, "h": {"healthy": True}}
    volumes = [
        {"id": name, "path": f"{name}.nii.gz", "patient": name, "split": "train", **said, **changes.pop(name, {})}
        for name, said in own.items()
    ]
    tree = {"anatomy": "", "tumour": "c0", "labels": {1: "lesion"}, "tissue_map": "kmeans", "volumes": volumes}
    kept = {name: value for name, value in {**tree, **changes}.items() if value is not None}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))
    return folder


def recipe_of_heads(folder: Path, **tiles: Any) -> Recipe:
    """A recipe of their whole planes, tissue and lesions, with the description read in."""
    rules = {"kind": "slice", "size": 48, "stride": 48, "step": 1, "gap": 0, "split_by": "volume", "views": "z"}
    data = {"path": str(folder), "anatomy": "", "tumour": "c0", "label": ["tissue", "lesion"]}
    recipe = Recipe.model_validate({"data": data, "tiles": {**rules, "grid": list(SHAPE), **tiles}})
    return recipe.model_copy(update={"data": resolve_data(recipe.data)})
