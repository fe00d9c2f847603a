"""Translated volumes as files: NIfTI, OME-Zarr, or separate images, each with its label beside it."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from metgan_dist.recipe import VolumeEntry
from metgan_dist.storage import Options, join, write_whole
from metgan_dist.volumes import ome_zarr_writer as ome
from metgan_dist.volumes.nifti_writer import write_nifti
from metgan_dist.volumes.volume import Spacing

if TYPE_CHECKING:  # workers that write volumes open no run
    from metgan_dist.runs.open_run import OpenRun

LABEL = "label"
PNG_TYPES = ("uint8", "uint16")


@dataclass(frozen=True)
class Made:
    """A translated volume before it is written.

    name: of its files; channels: names of its images', "" where there is one without a name; image: (C, z, y, x);
    label: values (z, y, x) as they are written, or None; classes: their names; spacing; affine, lies: of NIfTI, else
    None; images, table: file names and patients of separate images, one for each z, else None; windows: intensities
    that are shown from black to white.
    """

    name: str
    channels: tuple[str, ...]
    image: np.ndarray
    label: np.ndarray | None
    classes: Mapping[int, str]
    spacing: Spacing | None
    affine: np.ndarray | None
    lies: str | None
    images: tuple[str, ...] | None
    table: pd.DataFrame | None
    windows: Sequence[tuple[float, float]]

    @property
    def named(self) -> dict[str, int]:
        """Its channels' numbers, by name; none where the only one has no name."""
        return {} if self.channels == ("",) else {name: number for number, name in enumerate(self.channels)}


def write_made(made: Made, form: str, folder: str, options: Options) -> dict[str, Any]:
    """Write a volume into a folder, each file whole; `path`, `label` and what else its entry in a dataset.yaml needs.

    form: "nifti", "ome-zarr" or "images".
    """
    if form == "nifti":
        entry = _as_nifti(made, folder, options)
    else:
        entry = _as_ome_zarr(made, folder, options) if form == "ome-zarr" else _as_images(made, folder, options)
    VolumeEntry.model_validate({"id": made.name, **entry})  # a slip would show only when the set is read
    return entry


def voxels_digest(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 of the arrays of a volume: types, shapes and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def set_digest(volumes: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of all voxels of a data set, from the id and the digest of each volume, in their order."""
    return hashlib.sha256(json.dumps([list(one) for one in volumes]).encode()).hexdigest()


def record_set(opened: OpenRun, folder: str, digest: str, made: Sequence[Mapping[str, Any]]) -> None:
    """Put a data set of volumes that a run has made on its record: in MLflow, among its artefacts, with its memory.

    made: what is known of each volume, `peak_rss_bytes` among it.
    """
    with opened.log() as log:
        log.dataset(f"volumes-{digest[:8]}", folder, digest, "generated", len(made))
    opened.result.artefacts |= {"dataset": folder, "voxels_sha256": digest}
    opened.result.resources["peak_rss_bytes"] = max(one["peak_rss_bytes"] for one in made)


def _as_nifti(made: Made, folder: str, options: Options) -> dict[str, Any]:
    """A .nii.gz for each channel and one for the label, lying as the original's file does."""
    assert made.affine is not None
    assert made.lies is not None
    files = {name: f"{made.name}-{name}.nii.gz" for name in made.named}
    voxels = dict(zip(files.values() or [f"{made.name}.nii.gz"], made.image, strict=True))
    entry: dict[str, Any] = {"path": files or f"{made.name}.nii.gz"}
    if made.label is not None:
        entry[LABEL] = f"{made.name}-{LABEL}.nii.gz"
        voxels[entry[LABEL]] = made.label
    for file, own in voxels.items():
        write_nifti(join(folder, file), own, made.affine, made.lies, made.spacing, options)
    return entry


def _as_ome_zarr(made: Made, folder: str, options: Options) -> dict[str, Any]:
    """An OME-Zarr with its pyramid and a label group."""
    uri, shape = join(folder, f"{made.name}.ome.zarr"), made.image.shape[1:]
    levels = ome.plan_levels((shape[0], shape[1], shape[2]), made.spacing)
    group = None if made.label is None else LABEL
    ome.create_image(uri, levels, made.image.dtype, group, options, len(made.image))
    for region in ome.regions(shape, ome.chunks_and_shards(levels[0].shape)[1]):
        for number, voxels in enumerate(made.image):
            ome.write_block(uri, "s0", region, voxels[ome.where(region)], options, number)
        if made.label is not None:
            ome.write_block(uri, f"labels/{LABEL}/s0", region, made.label[ome.where(region)], options)
    for finer, coarser in itertools.pairwise(levels):
        z, y, x = (new // old for new, old in zip(coarser.factor, finer.factor, strict=True))
        for region in ome.regions(coarser.shape, ome.chunks_and_shards(coarser.shape)[1]):
            ome.coarsen_block(ome.CoarserJob(uri, group, finer.path, coarser.path, region, (z, y, x), options))
    scales = [ome.multiscales(made.name, levels, made.spacing, channel_axis=axis) for axis in (True, False)]
    names = list(made.named) or ["c0"]
    channels = [
        ome.channel(name, colour, window, window)
        for name, colour, window in zip(names, itertools.cycle(ome.COLOURS), made.windows, strict=False)
    ]
    label = ome.label_metadata(scales[1], made.classes)
    ome.finish_image(uri, ome.image_metadata(scales[0], channels), group, label, {}, options)
    return {"path": f"{made.name}.ome.zarr", **({LABEL: LABEL} if group else {})}


def _as_images(made: Made, folder: str, options: Options) -> dict[str, Any]:
    """A folder for each channel and one for the label: PNG, or TIFF for types that it does not know; and a table."""
    assert made.images is not None
    stems = [name.rpartition(".")[0] for name in made.images]
    folders = {name: f"{made.name}/{name}" for name in made.named}
    parts = list(zip(folders.values() or [f"{made.name}/image"], made.image, strict=True))
    entry: dict[str, Any] = {"path": folders or f"{made.name}/image", "axes": "nyx"}
    if made.label is not None:
        entry[LABEL] = f"{made.name}/{LABEL}"
        parts.append((entry[LABEL], made.label))
    for part, planes in parts:
        png = str(planes.dtype) in PNG_TYPES
        for stem, plane in zip(stems, planes, strict=True):
            content = png_bytes(plane) if png else tiff_bytes(plane)
            write_whole(join(folder, part, f"{stem}.{'png' if png else 'tif'}"), content, options)
    if made.table is not None:
        suffix = "png" if str(made.image.dtype) in PNG_TYPES else "tif"
        table = made.table.assign(file=[f"{stem}.{suffix}" for stem in stems])
        entry["table"] = f"{made.name}/table.csv"
        write_whole(join(folder, entry["table"]), table.to_csv(index=False).encode(), options)
    return entry


def png_bytes(plane: np.ndarray) -> bytes:
    """A plane (y, x), uint8 or uint16, as PNG."""
    packed = io.BytesIO()
    Image.fromarray(plane).save(packed, format="png")
    return packed.getvalue()


def tiff_bytes(plane: np.ndarray) -> bytes:
    """A plane (y, x), or pages (z, y, x), as TIFF; the same bytes for the same voxels."""
    packed = io.BytesIO()
    tifffile.imwrite(packed, plane, photometric="minisblack", metadata=None)
    return packed.getvalue()
