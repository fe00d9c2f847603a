"""Phantoms as a data set: OME-Zarr 0.5 volumes, written chunk by chunk, or NIfTI, and their `dataset.yaml`."""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
import zarr
from zarr.storage import FsspecStore, LocalStore

from metgan_dist.errors import UserError
from metgan_dist.recipe import Phantom
from metgan_dist.storage import Options, absolute, exists, filesystem, is_local, join, storage_errors
from metgan_dist.volumes import ome_zarr_writer as ome
from metgan_dist.volumes.ome_zarr import zarr_store
from metgan_dist.volumes.ome_zarr_writer import ARRAY_SETTINGS, regions
from metgan_dist.volumes.phantoms.brain import FIELD_OF_VIEW, BrainPhantom
from metgan_dist.volumes.phantoms.head import HeadPhantom, T1HeadPhantom, T2HeadPhantom
from metgan_dist.volumes.phantoms.heart import CtHeartPhantom, HeartPhantom, MrHeartPhantom
from metgan_dist.volumes.phantoms.light_sheet import LightSheetPhantom
from metgan_dist.volumes.phantoms.procedural import BLOCK, ProceduralVolume
from metgan_dist.volumes.phantoms.stroke import StrokeBrains
from metgan_dist.volumes.phantoms.write_cases import cases_description, stale_cases, write_cases
from metgan_dist.volumes.volume import Spacing

CHUNKS = (32, 128, 128)
_RECORD = "metgan_phantom"  # attribute of a complete volume: what it was drawn from
_DRAWING = 1  # raise it when the phantoms look different, so that volumes on disk are drawn anew
_Kind = type[LightSheetPhantom | BrainPhantom | HeartPhantom | HeadPhantom]
# The volumes of a modality are of its kinds in turns.
_KINDS: dict[str, tuple[_Kind, ...]] = {
    "light-sheet": (LightSheetPhantom,),
    "brain-dwi": (BrainPhantom,),
    "cardiac": (HeartPhantom,),
    "cardiac-unpaired": (CtHeartPhantom, MrHeartPhantom),
    "head": (T1HeadPhantom, T2HeadPhantom),
}


def phantom_grid(phantom: Phantom) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Voxels and their size (z, y, x) of each volume of a phantom; UserError for a shape that is no volume."""
    if phantom.modality != "stroke":
        volume = phantom_volume(phantom, 0)
        return volume.shape, volume.spacing
    _check_shape(phantom)
    z, y, x = (extent / length for extent, length in zip(FIELD_OF_VIEW, phantom.shape, strict=True))
    return phantom.shape, (z, y, x)


def phantom_volume(phantom: Phantom, number: int) -> ProceduralVolume:
    """Volume `number` (0, 1, ...) of a phantom data set, ready to `draw` any region or to tell its `truth`.

    Of stroke phantoms see `StrokeBrains`.
    """
    _check_shape(phantom)
    kind = _kind(phantom, number)
    return kind(phantom.shape, phantom.seed + number, kind.organs[number % len(kind.organs)])


def _check_shape(phantom: Phantom) -> None:
    if min(phantom.shape) < 1 or any(length != int(length) for length in phantom.shape):
        raise UserError(
            f"data.phantom.shape: {phantom.shape} is no volume; give three positive whole numbers (z, y, x)"
        )


def _kind(phantom: Phantom, number: int) -> _Kind:
    kinds = _KINDS[phantom.modality]
    return kinds[number % len(kinds)]


def write_phantom(
    phantom: Phantom,
    folder_uri: str,
    options: Options | None = None,
    chunks: tuple[int, int, int] | None = None,
    sharded: bool = False,
) -> str:
    """Writes the volumes `phantom-0.ome.zarr`, ... and `dataset.yaml` to a folder; returns the folder.

    Stroke phantoms are NIfTI files instead, a folder for each patient, and know no chunks.

    Deterministic: volume i has the seed `phantom.seed + i`. One chunk (a shard of 2 x 2 x 2 chunks when `sharded`) is
    in memory at a time; `chunks` is (z, y, x), by default (32, 128, 128), clipped to the shape. Volumes that are
    complete and drawn from the same parameters are left alone, others are replaced. A volume appears whole or not at
    all: on disk it is renamed when complete, in object storage its multiscales metadata comes last.

    Raises UserError for a shape that is no volume, for storage that refuses, and where a file or folder that is no
    phantom has a phantom's name.
    """
    folder = absolute(folder_uri)
    phantom_grid(phantom)  # before anything is written
    if phantom.modality == "stroke":
        brains = StrokeBrains(phantom, options)
        cases = stale_cases(brains, folder, options)
        _listed(phantom, folder, options, [partial(write_cases, brains, folder, cases, options)] if cases else [])
        return folder
    shape = phantom_volume(phantom, 0).shape
    clipped = tuple(max(1, min(a, b)) for a, b in zip(chunks or CHUNKS, shape, strict=True))
    stale: list[Callable[[], None]] = []
    for number in range(phantom.volumes):
        volume, uri = phantom_volume(phantom, number), join(folder, f"phantom-{number}.ome.zarr")
        record = {
            "drawing": _DRAWING,
            "modality": phantom.modality,
            "shape": list(shape),
            "seed": volume.seed,
            "organ": volume.organs[number % len(volume.organs)],
            "chunks": list(clipped),
            "sharded": sharded,
        }
        if _recorded(uri, options) != record:
            stale.append(partial(_write_whole, volume, uri, record, options))
    _listed(phantom, folder, options, stale)
    return folder


def _listed(phantom: Phantom, folder: str, options: Options | None, stale: Sequence[Callable[[], None]]) -> None:
    """Do what is to be done, and list the volumes after it: who finds the list finds what it lists."""
    text = yaml.safe_dump(phantom_description(phantom, options), sort_keys=False)
    list_uri = join(folder, "dataset.yaml")
    if stale or _text(list_uri, options) != text:
        _remove(list_uri, options)
        for work in stale:
            work()
        _write_text(list_uri, text, options)


def phantom_description(phantom: Phantom, options: Options | None = None) -> dict[str, Any]:
    """What the dataset.yaml of a phantom holds, whether it is drawn already or not.

    Raises UserError where real maps or masks that it takes are not there.
    """
    if phantom.modality == "stroke":
        return cases_description(phantom, options)
    kinds = _KINDS[phantom.modality]
    volumes = []
    for number in range(phantom.volumes):
        kind = _kind(phantom, number)
        entry = {
            "id": f"phantom-{number}",
            "path": f"phantom-{number}.ome.zarr",
            "label": kind.label_name,
            "organ": kind.organs[number % len(kind.organs)],
            "patient": f"subject-{number}",
        }
        volumes.append({**entry, "domain": kind.domain} if kind.domain else entry)
    images: dict[str, Any] = {"anatomy": kinds[0].anatomy, "tumour": kinds[0].tumour}
    if len(kinds) > 1:
        images = {"domains": {kind.domain: _domain(kind) for kind in kinds}}
    names = kinds[0].label_classes
    named = {"labels": dict(enumerate(names[1:], 1))} if kinds[0].names_labels else {}
    return {**images, **(named or {"classes": len(names)}), "volumes": volumes}


def _domain(kind: _Kind) -> dict[str, str]:
    return {"channels": kind.channels[0], **({"modality": kind.rules} if kind.rules else {})}


def _write_whole(volume: ProceduralVolume, uri: str, record: dict[str, Any], options: Options | None) -> None:
    """Writes a volume so that it never appears half-written under its name."""
    if not is_local(uri):
        _remove(uri, options)
        with storage_errors(uri):
            _write_volume(volume, zarr_store(uri, options, read_only=False), record)
        return
    target = Path(uri)
    if target.exists() and _recorded(uri, options) is None:
        raise UserError(f"{uri}: exists and is no phantom; move it away or choose another folder")
    with storage_errors(uri):
        target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with storage_errors(uri):
            _write_volume(volume, zarr_store(str(part), options, read_only=False), record)
        shutil.rmtree(target, ignore_errors=True)
        try:
            part.rename(target)
        except OSError:  # another process has put its volume there meanwhile; equal ones are as good as ours
            if _recorded(uri, options) != record:
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_volume(volume: ProceduralVolume, store: LocalStore | FsspecStore, record: dict[str, Any]) -> None:
    """Image, label group and, when all chunks are there, the metadata that make the group an OME-Zarr image."""
    chunks = tuple(record["chunks"])
    unit = chunks
    if record["sharded"]:
        unit = tuple(c * min(2, math.ceil(n / c)) for c, n in zip(chunks, volume.shape, strict=True))
    shards = unit if record["sharded"] else None
    root = zarr.create_group(store, zarr_format=3)
    labels = root.create_group("labels", attributes={"ome": {"version": "0.5", "labels": [volume.label_name]}})
    label_group = labels.create_group(volume.label_name, attributes={"ome": label_metadata(volume)})
    image = root.create_array(
        "s0",
        shape=(len(volume.channels), *volume.shape),
        chunks=(1, *chunks),
        shards=(1, *shards) if shards else None,
        dtype=volume.dtype,
        dimension_names=["c", "z", "y", "x"],
        **ARRAY_SETTINGS,
    )
    label = label_group.create_array(
        "s0",
        shape=volume.shape,
        chunks=chunks,
        shards=shards,
        dtype="uint8",
        dimension_names=["z", "y", "x"],
        **ARRAY_SETTINGS,
    )
    # Whole blocks are drawn, so small chunks are written by as many as fit into one.
    steps = tuple(u * max(1, block // u) for u, block in zip(unit, BLOCK, strict=True))
    for region in regions(volume.shape, steps):
        drawing = volume.draw(region)
        where = tuple(slice(start, stop) for start, stop in region)
        image[(slice(None), *where)] = drawing.images
        label[where] = drawing.label
    root.attrs.put({"ome": image_metadata(volume), _RECORD: record})


def _recorded(uri: str, options: Options | None) -> dict[str, Any] | None:
    """What the volume at a URI was drawn from; None where there is no complete phantom."""
    try:
        with storage_errors(uri):
            attributes = zarr.open_group(zarr_store(uri, options), mode="r").attrs
            record: Any = attributes.get(_RECORD)
    except (FileNotFoundError, ValueError):  # nothing there, or no zarr group
        return None
    return record if isinstance(record, dict) else None


def _text(uri: str, options: Options | None) -> str | None:
    fs, path = filesystem(uri, options)
    try:
        with storage_errors(uri):
            return str(fs.cat_file(path), encoding="utf-8")
    except FileNotFoundError:
        return None


def _write_text(uri: str, text: str, options: Options | None) -> None:
    fs, path = filesystem(uri, options)
    with storage_errors(uri):
        if is_local(uri):
            part = Path(f"{path}.{uuid.uuid4().hex[:8]}.part")
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        else:
            fs.pipe_file(path, text.encode())


def _remove(uri: str, options: Options | None) -> None:
    if exists(uri, options):
        fs, path = filesystem(uri, options)
        with storage_errors(uri):
            fs.rm(path, recursive=True)


def image_metadata(volume: ProceduralVolume) -> dict[str, Any]:
    """The `ome` attribute of the image: axes c, z, y, x, one level `s0`, voxel size, channel names and windows."""
    colours = ("00FF00", "FF00FF") if len(volume.channels) > 1 else ("FFFFFF",)
    channels = [
        ome.channel(name, colour, (low, high), (min(0, low), high))
        for name, colour, (low, high) in zip(volume.channels, colours, volume.windows, strict=True)
    ]
    return ome.image_metadata(_multiscales(volume, "phantom", channel_axis=True), channels)


def label_metadata(volume: ProceduralVolume) -> dict[str, Any]:
    """The `ome` attribute of the label group: axes z, y, x and the names of the classes."""
    classes = {value: name for value, name in enumerate(volume.label_classes) if value}
    return ome.label_metadata(_multiscales(volume, volume.label_name, channel_axis=False), classes)


def _multiscales(volume: ProceduralVolume, name: str, *, channel_axis: bool) -> dict[str, Any]:
    level = ome.Level("s0", volume.shape, (1, 1, 1))
    return ome.multiscales(name, [level], Spacing(*volume.spacing, unit=volume.unit), channel_axis=channel_axis)
