"""Volumes with and without tumours as NIfTI files, and a SinGAN that took no step, in a run with its tiles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
import yaml
from two_domains import cut_here

from metgan_dist.methods import build_method, enter_stage
from metgan_dist.methods.singan import SinGAN
from metgan_dist.recipe import Recipe
from metgan_dist.synthesis.inserting import Inserter
from metgan_dist.synthesis.insertion import VolumeInsertion
from metgan_dist.training.checkpoint import save_state
from metgan_dist.training.step import Stepper
from metgan_dist.volumes.dataset import resolve_data

SHAPE = (6, 40, 36)  # z, y, x
AFFINE = np.array([[0.5, 0, 0, -30], [0, 0.5, 0, -40], [0, 0, 1.5, -10], [0, 0, 0, 1]])


def image_of(seed: int, shape: Sequence[int] = SHAPE, low: int = 100, span: int = 400) -> np.ndarray:
    """An ellipse of tissue on air, int16 (z, y, x), with noise, of which the air has less."""
    axes = np.meshgrid(*(np.linspace(-1, 1, edge) for edge in shape[1:]), indexing="ij")
    tissue = sum(axis**2 for axis in axes) < 0.8
    noise = np.random.default_rng(seed).normal(0, 0.05, shape)
    return np.rint(low + span * np.clip(0.5 * tissue + noise * (0.2 + tissue), 0, 1)).astype(np.int16)


def mask_of(shape: Sequence[int] = SHAPE, at: Sequence[int] = (2, 16, 14)) -> np.ndarray:
    """A tumour of 2 x 6 x 5 voxels, uint8."""
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(start, start + size) for start, size in zip(at, (2, 6, 5), strict=True))] = 1
    return mask


def save(folder: Path, name: str, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels.T, affine), folder / f"{name}.nii.gz")


def read(folder: Path | str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (z, y, x) and affine of a NIfTI file by its name without the ending."""
    image = nibabel.load(Path(folder) / f"{name}.nii.gz")
    return np.asarray(image.dataobj).T, image.affine


def describe(folder: Path, entries: Sequence[Mapping[str, Any]], **fields: Any) -> Path:
    tree = {"anatomy": "", "tumour": "t2", **fields, "volumes": list(entries)}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder


def write_targets(folder: Path, count: int = 3, shape: Sequence[int] = SHAPE, labelled: int = 0) -> Path:
    """b0, b1, ... of patients p0, ..., without tumours, but for the first `labelled`; and `held`, for tests."""
    entries = []
    for k, name in enumerate([*(f"b{k}" for k in range(count)), "held"]):
        image = image_of(k, shape)
        entry = {"id": name, "path": {"t2": f"{name}.nii.gz"}, "patient": f"p{k}"}
        if k < labelled:
            own = mask_of(shape, (3, 6, 20))
            image[own > 0] += 150
            save(folder, f"{name}-label", own)
            entry["label"] = f"{name}-label.nii.gz"
        save(folder, name, image)
        entries.append({**entry, "split": "test"} if name == "held" else entry)
    return describe(folder, entries, **({"labels": {1: "tumour"}} if labelled else {}))


def write_donors(folder: Path, count: int = 3, images: bool = True, **fields: Any) -> Path:
    """a0, a1, ... of patients p0, ..., on the grid of the targets, in another contrast, each with a tumour of its own
    place; without images masks alone."""
    entries = []
    for k in range(count):
        mask = mask_of(at=(1 + k % 3, 14 + k, 12))
        image = image_of(10 + k, low=-50, span=900)
        image[mask > 0] = 780 + 10 * k
        save(folder, f"a{k}-label", mask)
        entry = {"id": f"a{k}", "label": f"a{k}-label.nii.gz", "patient": f"p{k}"}
        if images:
            save(folder, f"a{k}", image)
            entry["path"] = {"t1": f"a{k}.nii.gz"}
        entries.append(entry)
    named = {"labels": {1: "tumour"}, **fields}
    if not images:
        named = {key: value for key, value in named.items() if key == "labels"}
        (folder / "dataset.yaml").write_text(yaml.safe_dump({**named, "volumes": entries}, sort_keys=False))
        return folder
    return describe(folder, entries, **{"tumour": "t1", **named})


def write_singan(folder: Path, data: Path, size: Sequence[int] = SHAPE[1:], plane: int = 3, **fields: Any) -> str:
    """A run whose checkpoint has a narrow pyramid of some small random weights; the run's folder."""
    kind = {"kind": "crop" if len(size) == 3 else "slice", "size": list(size), "views": "z", "test": 0, "val": 0}
    method = {"name": "singan", "width": 1 / 8, "volume": "b0", "plane": plane, **fields.pop("method", {})}
    if len(size) == 3:
        del method["plane"]
    tree = {"data": {"path": str(data), "anatomy": ""}, "tiles": {**kind, **fields.pop("tiles", {})}, "method": method}
    recipe = Recipe.model_validate({**tree, "training": {"augment": False}, **fields})
    recipe = recipe.model_copy(update={"data": resolve_data(recipe.data)})
    tiles = cut_here(recipe, folder / "tiles")
    torch.manual_seed(0)
    built = build_method(recipe)
    assert isinstance(built, SinGAN)
    stages = built.stages(recipe)
    for stage in stages:
        enter_stage(built, recipe, stage)
    for generator in built.generators:
        for weight in (own for own in generator.parameters() if own.dim() > 1):
            torch.nn.init.kaiming_normal_(weight, nonlinearity="linear")
        generator.layers[-1].weight.data.mul_(0.3)
        generator.amplitude.fill_(0.2)
    run = folder / "slice"
    place = run / "train" / "singan" / "images-000000001"
    place.mkdir(parents=True)
    save_state(place, Stepper(built, torch.device("cpu")), recipe, {"images": 1, "stage": stages[-1].name})
    made = {"tiles": tiles.uri, "best_checkpoint": str(place)}
    known = {"job": "train_metgan", "mlflow_run_id": "0" * 31 + "2", "recipe": recipe.model_dump(mode="json")}
    (run / "run.json").write_text(json.dumps(known))
    (run / "result.json").write_text(json.dumps({"status": "finished", "artefacts": made}))
    return str(run)


def asked(path: Path, out: Path, **insertion: Any) -> Recipe:
    """What insert_tumours.py is asked for."""
    more = {name: insertion.pop(name) for name in ("tiles", "data", "tracking", "scaling") if name in insertion}
    sections = {"data": {"path": str(path), **more.pop("data", {})}, "storage": {"path": str(out)}}
    return Recipe.model_validate({**sections, "insertion": insertion, **more})


def inserted(plan: VolumeInsertion, folder: Path, harmonise: Any = None) -> tuple[str, list[dict[str, Any]]]:
    """The data set of a plan, made in this process: the digest of its voxels, and what is known of its volumes."""
    job = replace(plan.job, folder=str(folder))
    worker = Inserter(job, harmonise)
    made = [worker.insert(case) for case in plan.cases]
    return plan.describe(job, made), made
