"""Data sets of brains with tissue maps, healthy ones and stroke cases, as NIfTI files, and their slices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import yaml
from two_domains import cut_here

from metgan_dist.recipe import Recipe
from metgan_dist.runs.command_line import Command
from metgan_dist.synthesis.brains import BrainSynthesis
from metgan_dist.synthesis.painting import Painter
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.volumes.dataset import resolve_data

SHAPE = (10, 32, 32)  # z, y, x, of the files
GRID = (8, 32, 32)  # of what is left of the grid
AFFINE = np.array([[2.0, 0, 0, -30], [0, 2, 0, -40], [0, 0, 4, -10], [0, 0, 0, 1]])
WHITE, FLUID, LESION = 1, 2, 3
LABELS = {"tissue": {WHITE: "white matter", FLUID: "csf"}, "lesion": {1: "lesion"}}


def tissue_map() -> np.ndarray:
    """A box of white matter with fluid in its middle, uint8 (z, y, x)."""
    tissue = np.zeros(SHAPE, np.uint8)
    tissue[1:9, 4:28, 4:28] = WHITE
    tissue[3:7, 13:19, 13:19] = FLUID
    return tissue


def write_brains(folder: Path, healthy: int = 4, stroke: int = 1, bright: float = 1) -> Path:
    """h0, h1, ... of patients p0, p1, ..., of which the last is for tests, and s0, ... of patients q0, ....

    bright: how many times as bright as it would be a lesion is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(healthy + stroke):
        ill = number >= healthy
        name = f"{'hs'[ill]}{number - healthy * ill}"
        tissue = tissue_map()
        dwi = np.random.default_rng(number).integers(0, 50, SHAPE) + 300 * (tissue == WHITE) + 100 * (tissue == FLUID)
        files = {"": dwi.astype(np.int16), "tissue": tissue}
        if ill:
            files["lesion"] = np.zeros(SHAPE, np.uint8)
            files["lesion"][4, 6:10, 6:14] = 1
            files[""][files["lesion"] > 0] = np.rint(bright * files[""][files["lesion"] > 0])
        for kind, voxels in files.items():
            nibabel.save(nibabel.Nifti1Image(voxels.T, AFFINE), folder / f"{name}{kind}.nii.gz")
        labels = {kind: f"{name}{kind}.nii.gz" for kind in files if kind}
        patient = f"{'pq'[ill]}{number - healthy * ill}"
        side = "test" if number == healthy - 1 else "train"
        entry = {"id": name, "path": f"{name}.nii.gz", "label": labels, "patient": patient, "split": side}
        entries.append({**entry, "healthy": True} if not ill else entry)
    tree = {"anatomy": "", "tumour": "c0", "labels": LABELS, "volumes": entries}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder


def recipe_of(path: Path, **sections: Any) -> Recipe:
    """A recipe of a narrow spade_stroke on whole planes of a grid of 8 x 32 x 32."""
    tiles = {"kind": "slice", "size": 32, "stride": 32, "step": 1, "gap": 0, "split_by": "volume", "views": "z"}
    recipe = Recipe.model_validate(
        {
            "data": {"path": str(path), "anatomy": "", "label": ["tissue", "lesion"]},
            "tiles": {**tiles, "grid": [10, 32, 32], "margin": [1, 0, 0], **sections.get("tiles", {})},
            "method": {"name": "spade_stroke", "width": 1 / 8, "perceptual": 0, **sections.get("method", {})},
        }
    )
    return recipe.model_copy(update={"data": resolve_data(recipe.data)})


def cut_brains(folder: Path, bright: float = 1, **sections: Any) -> TileSet:
    """Slices of a data set of brains, both written to a folder."""
    return cut_here(recipe_of(write_brains(folder / "brains", bright=bright), **sections), folder / "tiles")


def lesion_at(*corner: int) -> np.ndarray:
    """A mask of 2 x 6 x 6 voxels on the tiles' grid, uint8."""
    mask = np.zeros(GRID, np.uint8)
    mask[tuple(slice(start, start + size) for start, size in zip(corner, (2, 6, 6), strict=True))] = 1
    return mask


def asked_of(folder: Path, out: Path, **synthesis: Any) -> Command:
    """What synthesize.py is asked for with the `brains` and `masks` of a folder: five volumes of them."""
    given = {"masks": str(folder / "masks"), "count": 5, **synthesis}
    tree = {"synthesis": given, "storage": {"path": str(out)}, "tracking": {"run": "made"}}
    recipe = Recipe.model_validate({**tree, "data": {"path": str(folder / "brains")}})
    return Command(recipe, "quickstart", False, False, given={"synthesis": given})


def painted(plan: BrainSynthesis, folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """The data set of a plan, made in this process: the digest of its voxels, and what is known of its volumes."""
    job = replace(plan.job, folder=str(folder))
    worker = Painter(job)
    made = [worker.paint(brain) for brain in plan.plan]
    return plan.describe(job, made, plan.plan), made


def read(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (z, y, x) and affine of a NIfTI file by its name without the ending."""
    image = nibabel.load(folder / f"{name}.nii.gz")
    return np.asarray(image.dataobj).T, image.affine
