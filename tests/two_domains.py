"""Data sets of two domains on disk, as NIfTI files, and their tiles cut in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import yaml

from metgan_dist.recipe import Recipe
from metgan_dist.tiles.manifest import finish_set
from metgan_dist.tiles.survey import ROLES, fingerprint, held_roles, plan_set, survey_volumes
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.tiles.tiling import tile_block
from metgan_dist.volumes.dataset import resolve_data, volume_refs

# Voxels of a CT volume lie around 0, those of an MR volume between 100 and 600.
LOWEST = {"ct": -1000, "mr": 100}
SPAN = {"ct": 2000, "mr": 500}


def write_volume(folder: Path, name: str, domain: str, shape: Sequence[int], seed: int) -> None:
    """`name`.nii.gz, int16 of the domain's range, and `name`-label.nii.gz, a cube of foreground in the middle."""
    voxels = np.random.default_rng(seed).integers(0, SPAN.get(domain, 500) + 1, shape) + LOWEST.get(domain, 100)
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(edge // 4, max(1, 3 * edge // 4)) for edge in shape)] = 1
    for values, file in ((voxels.astype(np.int16), name), (label, f"{name}-label")):
        nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), np.eye(4)), folder / f"{file}.nii.gz")


def write_two_domains(
    folder: Path,
    numbers: Mapping[str, int] | None = None,
    *,
    shape: Sequence[int] = (4, 16, 16),
    labelled: Sequence[str] = ("ct", "mr"),
    shared: int = 0,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    **description: Any,
) -> Path:
    """A folder with a dataset.yaml of so many volumes of each domain, ct-0, ct-1, ... and mr-0, ....

    Volume k of either domain is of patient k for k below `shared`. `changes`: fields of a volume's entry, by its id;
    a field that is None is left out. `description`: further fields of the dataset.yaml.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for domain, count in (numbers or {"ct": 6, "mr": 6}).items():
        for k in range(count):
            name = f"{domain}-{k}"
            write_volume(folder, name, domain, shape, seed=1000 * (domain == "mr") + k)
            entry: dict[str, Any] = {"id": name, "path": f"{name}.nii.gz", "domain": domain}
            entry["label"] = f"{name}-label.nii.gz" if domain in labelled else None
            entry["patient"] = f"p{k}" if k < shared else f"{domain} patient {k}"
            entry |= dict((changes or {}).get(name, {}))
            entries.append({field: value for field, value in entry.items() if value is not None})
    (folder / "dataset.yaml").write_text(yaml.safe_dump({**description, "volumes": entries}, sort_keys=False))
    return folder


def recipe_of(path: Path, **sections: Mapping[str, Any]) -> Recipe:
    """A recipe of slices of 16 pixels of the data set at `path`, with its description read in."""
    data = {"path": str(path), **sections.pop("data", {})}
    tiles = {"kind": "slice", "size": 16, "gap": 0, **sections.pop("tiles", {})}
    recipe = Recipe.model_validate({"data": data, "tiles": tiles, **sections})
    return recipe.model_copy(update={"data": resolve_data(recipe.data)})


def cut_here(recipe: Recipe, folder: Path) -> TileSet:
    """The recipe's tiles, cut by this process alone, as `make_tiles` has them cut by Ray's."""
    refs = volume_refs(recipe.data)
    surveys, skipped = survey_volumes(refs, recipe.data, print)
    held = held_roles(surveys, recipe)
    jobs = plan_set(surveys, recipe, str(folder), recipe.scaling.tile_memory * 2**20)
    rows = {name: [pd.DataFrame(tile_block(job)["rows"]) for job in listed] for name, listed in jobs.items()}
    facts = {
        "fingerprint": fingerprint(recipe.data, recipe.tiles, refs),
        "roles": [role for role in ROLES if any(role in roles for roles in held.values())],
        "tile_shape": list(recipe.tiles.shape),
        "planned": sum(len(job.block.plans) for listed in jobs.values() for job in listed),
        "skipped": skipped,
    }
    return finish_set(recipe, str(folder), surveys, rows, facts)


SLICES = Path(__file__).resolve().parents[1] / "../shared/data/cardiac"
SLICES_CLASSES = 10


def write_slices(folder: Path) -> Path:
    """A dataset.yaml of the real CT and MR slices, of other patients, whom tables name; images stay where they are."""
    entries = []
    for name in ("ct", "mr"):
        at = (SLICES / f"{name}-slices").resolve()
        images = sorted(path.name for path in (at / "images").glob("*.png"))
        rows = ["file,patient", *(f"{image},{image.split('_')[0]}" for image in images)]
        (folder / f"{name}.csv").write_text("\n".join(rows))
        paths = {"path": {"grey": f"{at}/images"}, "label": f"{at}/masks", "table": f"{name}.csv"}
        entries.append({"id": f"{name}-slices", "domain": name, **paths})
    domains = {"ct": {"channels": "grey"}, "mr": {"channels": "grey", "normalise": "minmax"}}
    described = {"classes": SLICES_CLASSES, "domains": domains, "volumes": entries}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    return folder


def cut_slices(folder: Path) -> TileSet:
    """The real slices as tiles of 64 pixels, held out by patient."""
    tiles = {"size": 512, "resize": 64, "split_by": "volume"}
    return cut_here(recipe_of(write_slices(folder), tiles=tiles), folder / "set")
