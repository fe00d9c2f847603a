"""One batch of cases read and written: a volume, or the tiles of one shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.export.case import Case
from metgan_dist.export.files import SUFFIXES, Grid, check_png, checksums, scaled, write_voxels
from metgan_dist.recipe import Export
from metgan_dist.storage import Options, join
from metgan_dist.synthesis.volume_files import Made, write_made
from metgan_dist.tiles.geometry import AXES, in_plane
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.volumes.labelled import LabelledVolume, VolumeRef
from metgan_dist.volumes.layers import Layer
from metgan_dist.volumes.volume import Spacing, whole

AT_ONCE = 64  # tiles that are held in memory


@dataclass(frozen=True)
class Order:
    """What all batches share, small enough to travel.

    settings: the section `export`; folder: of the export; images, classes, dimensions: as `Source` has them; tiles: URI
    of the set, and domain, where it is one of tiles.
    """

    settings: Export
    folder: str
    images: tuple[tuple[Layer, str], ...]
    classes: tuple[str, ...]
    dimensions: int
    tiles: str | None
    domain: str | None
    units: dict[str, str | None] = field(default_factory=dict)
    options: Options = field(default_factory=dict, repr=False)  # may hold a secret


@dataclass(frozen=True)
class Batch:
    """Cases that one task writes."""

    order: Order
    cases: tuple[Case, ...]


def write_batch(batch: Batch) -> dict[str, list[dict[str, Any]]]:
    """Write the cases of a batch; of each its name, its files with their SHA-256, and its origin.

    Of a volume one channel is held in memory at a time (all of them for OME-Zarr), of tiles `AT_ONCE`.
    """
    order = batch.order
    if order.tiles is None:
        return {"cases": [_write_volume(order, case) for case in batch.cases]}
    tiles = TileSet.open(order.tiles, order.options)
    tiles = tiles if order.domain is None else tiles.of_domain(order.domain)
    known: list[dict[str, Any]] = []
    for first in range(0, len(batch.cases), AT_ONCE):
        known += _write_tiles(order, tiles, batch.cases[first : first + AT_ONCE])
    return {"cases": known}


def _write_volume(order: Order, case: Case) -> dict[str, Any]:
    assert isinstance(case.source, VolumeRef)
    volume = case.source.open()
    grid = Grid(volume.spacing, volume.affine, volume.lies)
    images = (_image(volume, layer) for layer, _ in order.images)
    label = volume.read("label", whole(volume)) if case.labelled else None
    uris = _write_case(order, case, images, label, grid)
    told = {"shape": list(volume.shape), "types": {name: str(volume.dtypes[layer]) for layer, name in order.images}}
    return _answer(order, case, uris, grid, told)


def _image(volume: LabelledVolume, layer: Layer) -> np.ndarray:
    return volume.read(layer, whole(volume))


def _write_tiles(order: Order, tiles: TileSet, cases: tuple[Case, ...]) -> Iterator[dict[str, Any]]:
    rows = [case.source for case in cases if isinstance(case.source, int)]
    addresses = tiles.addresses(rows)
    loaded = tiles.reader.load_together(addresses)
    for case, address, tile in zip(cases, addresses, loaded, strict=True):
        if order.settings.values == "stored":
            images = [tiles.reader.pixels(address, layer) for layer, _ in order.images]
        else:
            images = [_channel(tile, layer) for layer, _ in order.images]
        grid = Grid(_spacing(case, order))
        uris = _write_case(order, case, iter(images), tile.get("label"), grid)
        yield _answer(order, case, uris, grid, {"shape": list(images[0].shape), "types": str(images[0].dtype)})


def _channel(tile: dict[str, np.ndarray], layer: Layer) -> np.ndarray:
    role, _, number = layer.partition("_")
    return tile[role][int(number or 0)]


def _spacing(case: Case, order: Order) -> Spacing | None:
    """Of a pixel of a tile along its own axes, as the index has it; a plane's z is the extent across it."""
    edges = [case.origin.get(f"spacing_{axis}") for axis in AXES]
    if None in edges:
        return None
    if order.dimensions == 2:
        down, along = in_plane(case.origin["view"])
        edges = [edges[({0, 1, 2} - {down, along}).pop()], edges[down], edges[along]]
    z, y, x = (float(edge) for edge in edges if edge is not None)
    return Spacing(z, y, x, order.units.get(case.volume) or "unknown")


def _write_case(
    order: Order, case: Case, images: Iterator[np.ndarray], label: np.ndarray | None, grid: Grid
) -> list[str]:
    """URIs of the files and folders of a case."""
    settings = order.settings
    if settings.format == "ome-zarr":
        return [_write_ome_zarr(order, case, images, label, grid)]
    uris = []
    for number, ((_, name), image) in enumerate(zip(order.images, images, strict=True)):
        if settings.format == "png":
            check_png(image.dtype, f"channel {name!r} of {case.volume!r}", settings.png_range)
        uris.append(join(order.folder, image_path(order, case, number)))
        write_voxels(settings.format, uris[-1], scaled(image, settings.png_range), grid, order.options)
    if label is not None:
        uris.append(join(order.folder, label_path(order, case)))
        write_voxels(settings.format, uris[-1], label, grid, order.options)
    return [uri.removesuffix(".png") if settings.format == "png" and order.dimensions == 3 else uri for uri in uris]


def image_path(order: Order, case: Case, number: int) -> str:
    """Path in the export of one channel of a case."""
    suffix = SUFFIXES[order.settings.format]
    if order.settings.format == "nnunet":
        return f"images{'Ts' if case.tested else 'Tr'}/{case.name}_{number:04d}{suffix}"
    name = f"_{order.images[number][1]}" if len(order.images) > 1 else ""
    return f"images/{case.name}{name}{suffix}"


def label_path(order: Order, case: Case) -> str:
    """Path in the export of the label of a case."""
    part = f"labels{'Ts' if case.tested else 'Tr'}" if order.settings.format == "nnunet" else "labels"
    return f"{part}/{case.name}{SUFFIXES[order.settings.format]}"


def _write_ome_zarr(
    order: Order, case: Case, images: Iterator[np.ndarray], label: np.ndarray | None, grid: Grid
) -> str:
    image = np.stack(list(images))
    if image.ndim == 3:  # a plane; an OME-Zarr of the house has z
        image, label = image[:, None], None if label is None else label[None]
    made = Made(
        case.name,
        tuple(name for _, name in order.images),
        image,
        label,
        dict(enumerate(order.classes[1:], start=1)),
        grid.spacing,
        None,
        None,
        None,
        None,
        [(float(channel.min()), float(channel.max())) for channel in image],
    )
    folder = join(order.folder, "images")
    return join(folder, str(write_made(made, "ome-zarr", folder, order.options)["path"]))


def _answer(order: Order, case: Case, uris: list[str], grid: Grid, told: dict[str, Any]) -> dict[str, Any]:
    at = grid.spacing
    placed = None if grid.affine is None else np.asarray(grid.affine, float).tolist()
    return {
        "case": case.name,
        "files": checksums(order.folder, uris, order.options),
        "origin": {
            **case.row,
            **told,
            "spacing_zyx": None if at is None else [at.z, at.y, at.x],
            "unit": None if at is None else at.unit,
            "affine": placed,
            **({"behind": case.origin} if case.origin else {}),
        },
    }


def check_order(order: Order, cases: tuple[Case, ...], tiles: TileSet | None) -> None:
    """UserError for what a first look shows cannot be written: types that PNG does not hold, missing labels."""
    settings = order.settings
    lacking = next((case for case in cases if not case.labelled and not case.tested), None)
    if settings.format == "nnunet" and lacking is not None:
        raise UserError(
            f"data.label: {lacking.volume!r} has no label, and nnU-Net trains on labelled cases alone; name it in the "
            "data set, say `split: test` of the volume, or take another export.format"
        )
    if settings.format != "png":
        return
    for case in cases[:1] if tiles is not None else cases:
        for layer, name in order.images:
            if tiles is not None:
                assert isinstance(case.source, int)
                stored = settings.values == "stored"
                dtype = tiles.pixels(case.source, layer).dtype if stored else np.dtype(np.float32)
            else:
                assert isinstance(case.source, VolumeRef)
                dtype = case.source.open().dtypes[layer]
            check_png(dtype, f"channel {name!r} of {case.volume!r}", settings.png_range)
