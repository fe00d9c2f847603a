"""A batch of lesion masks: drawn, written where the masks lie that the generator learned from, and measured."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from metgan_dist.storage import Options, join
from metgan_dist.synthesis.replica import Replica
from metgan_dist.tasks.mask_generation import MaskGeneration
from metgan_dist.tiles.geometry import AXES
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.volumes.labelled import VolumeRef
from metgan_dist.volumes.nifti_writer import write_nifti
from metgan_dist.volumes.volume import Spacing

# Begins the words of a seed: masks of a set are others than those that go with tiles (methods/lesion_wgan.py).
OF_SET = 2


class Place(NamedTuple):
    """Where masks lie: 4x4 from voxels (x, y, z) to millimetres, towards which sides files run, and the voxel size."""

    affine: np.ndarray
    lies: str
    spacing: Spacing | None


@dataclass(frozen=True)
class Drawing:
    """What all batches share, small enough to travel.

    model: checkpoint; tiles: that it learned from; label_values: what is written of each class, background first;
    folder: of the data set.
    """

    model: str
    tiles: str
    place: Place
    label_values: tuple[int, ...]
    folder: str
    seed: int
    batch_size: int
    precision: str
    threads: int
    device: str
    options: Options = field(repr=False)  # may hold a secret


class Batch(NamedTuple):
    """Masks first, first + 1, ..., of a set, `size` of them."""

    first: int
    size: int


class Drawer:
    """Draws batches with one replica of the generator."""

    def __init__(self, job: Drawing) -> None:
        self._job = job
        self._replica = Replica(
            job.model, None, device=job.device, precision=job.precision, threads=job.threads, options=job.options
        )
        self._task = MaskGeneration(TileSet.open(job.tiles, job.options))

    def draw(self, batch: Batch) -> dict[str, Any]:
        """Write a batch; of each mask its id, seed, SHA-256 of its voxels, measures, and the training tile nearest."""
        job = self._job
        # Always whole: with fewer beside it a mask might have other last digits, and so another voxel.
        numbers = range(batch.first, batch.first + job.batch_size)
        masks = self._replica.draw([(OF_SET, job.seed, number) for number in numbers])
        drawn = list(zip(numbers, masks, strict=True))[: batch.size]
        return {"masks": [self._written(number, mask) for number, mask in drawn]}

    def _written(self, number: int, mask: np.ndarray) -> dict[str, Any]:
        job, name, task = self._job, mask_name(number), self._task
        voxels = np.array(job.label_values, np.min_scalar_type(max(job.label_values)))[mask]
        write_nifti(join(job.folder, mask_file(name)), voxels, *job.place, job.options)
        _, nearest = task.training_masks.nearest(mask)
        return {
            "id": name,
            "seed": [job.seed, number],
            "voxels_sha256": hashlib.sha256(np.ascontiguousarray(voxels).data).hexdigest(),
            "nearest": None if nearest < 0 else int(task.training_rows[nearest]),
            "measures": {key: None if np.isnan(value) else value for key, value in task.measures(mask).items()},
        }


def drawer(job: Drawing) -> Callable[[Batch], dict[str, Any]]:
    """`Drawer.draw` with a generator that is loaded once."""
    return Drawer(job).draw


def mask_name(number: int) -> str:
    """The id of a mask of a set."""
    return f"mask-{number:06d}"


def mask_file(name: str) -> str:
    """The file of a mask, relative to its data set."""
    return f"{name}.nii.gz"


def place_of(tiles: TileSet, refs: Mapping[str, VolumeRef]) -> Place:
    """Where the first training tile lies, by the affine of its volume, or about nothing by its voxel size alone."""
    row = tiles.index.iloc[int(tiles.positions("train", "label")[0])]
    volume = refs[str(row["volume"])].open()
    at = volume.spacing
    onto, sizes = np.eye(4), []
    for axis, (name, length) in enumerate(zip(AXES, tiles.shape, strict=True)):
        first, last = row[f"{name}0"] - row[f"pad_{name}0"], row[f"{name}1"] + row[f"pad_{name}1"]
        own = getattr(at, name) if at else 1.0
        # The row's box is rounded to whole voxels of the volume; the size of its own is not.
        size = float(row[f"spacing_{name}"]) if at else (last - first) / length
        onto[2 - axis, 2 - axis] = size / own
        onto[2 - axis, 3] = (first + last - 1) / 2 - (length - 1) / 2 * size / own
        sizes.append(size)
    base = np.diag([*(getattr(at, name) if at else 1.0 for name in reversed(AXES)), 1.0])
    affine = (base if volume.affine is None else volume.affine) @ onto
    z, y, x = sizes
    return Place(affine, volume.lies or "RAS", Spacing(z, y, x, unit=at.unit) if at else None)
