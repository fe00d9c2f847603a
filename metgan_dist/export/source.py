"""What can be exported: the tiles of a set, or the volumes of a data set, as cases with images, labels and a grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.export.case import Case, volume_cases
from metgan_dist.lineage.volumes import file_digests
from metgan_dist.recipe import BACKGROUND, Data, Export, Labels, Recipe, class_names
from metgan_dist.storage import absolute
from metgan_dist.tiles.tile_set import SPLITS, TileSet
from metgan_dist.trained import read_run
from metgan_dist.volumes.dataset import resolve_data, volume_refs
from metgan_dist.volumes.labelled import VolumeRef
from metgan_dist.volumes.layers import Layer, layers_of


@dataclass(frozen=True)
class Source:
    """What is exported.

    uri: of the set; cases: all of them in its order, in `batches` that are read together; images: layer and name of
    each channel; classes: names by number, background first; dimensions: of an image; facts: how the set is known and
    what is behind it, as JSON has them; tiles: the set, where it is one of tiles.
    """

    uri: str
    cases: tuple[Case, ...]
    batches: Mapping[str, tuple[Case, ...]]
    images: tuple[tuple[Layer, str], ...]
    classes: tuple[str, ...]
    dimensions: int
    facts: dict[str, Any]
    tiles: TileSet | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(name for _, name in self.images)


def tile_source(recipe: Recipe) -> Source:
    """The tiles at `data.path` that are of a split; those of a gap, and those that the gate rejected, are none.

    They are read shard by shard. UserError for a set of two domains of which none is named, and for one without images
    of `export.roles`.
    """
    settings, options = recipe.export, recipe.storage.options
    tiles = TileSet.open(str(recipe.data.path), options)
    known = tiles.domains
    if known:
        name = {"source": next(iter(known)), "target": [*known][-1]}.get(settings.domain or "", settings.domain or "")
        tiles = tiles.of_domain(_named(name, tuple(known), tiles.uri))
    elif settings.domain:
        raise UserError(f"export.domain: {settings.domain!r}, but {tiles.uri} has no domains; leave it out")
    images = [
        (layer, name or role)
        for role in settings.roles
        if role in tiles.manifest["roles"]
        for layer, name in zip(tiles.layers(role), tiles.channels(role) or (role,), strict=True)
    ]
    index = tiles.index[tiles.index["split"].isin(SPLITS)]
    if index.empty:
        raise UserError(f"data.path: {tiles.uri} has no tiles of a split; there is nothing to export")
    labelled = "label" in tiles.manifest["roles"]
    cases = [_tile_case(int(str(row)), tile, labelled) for row, tile in zip(index.index, _rows(index), strict=True)]
    batches: dict[str, list[Case]] = {}
    for case, place in zip(cases, _places(index), strict=True):
        batches.setdefault(place, []).append(case)
    facts = {"kind": "tiles", "uri": tiles.uri, "digest": tiles.digest, "domain": tiles.domain}
    facts |= {key: tiles.manifest.get(key) for key in ("synthesis", "parts", "fingerprint") if key in tiles.manifest}
    data = Data(**(tiles.manifest["data"] | {"domains": {}, "volumes": []}))
    return Source(
        tiles.uri,
        tuple(cases),
        {name: tuple(own) for name, own in batches.items()},
        _checked(images, tiles.uri, settings),
        _classes(data.labels, data.classes),
        len(tiles.shape),
        facts,
        tiles,
    )


def volume_source(recipe: Recipe) -> Source:
    """The volumes of the data set at `data.path`, each a batch.

    UserError where they have other channels than each other, or are of two domains of which none is named.
    """
    settings, options = recipe.export, recipe.storage.options
    if recipe.data.path is None and not recipe.data.volumes:
        raise UserError("data.path: none given; name the folder of a tile set, or of a data set of volumes")
    data = resolve_data(recipe.data, options)
    refs = volume_refs(data, options)
    if data.domains:
        asked = settings.domain or ""
        name = {"source": data.source, "target": data.target}.get(asked, asked)
        _named(str(name), tuple(data.domains), str(data.path))
        refs = [ref for ref in refs if ref.domain == name]
    elif settings.domain:
        raise UserError(f"export.domain: {settings.domain!r}, but {data.path} has no domains; leave it out")
    if not refs:
        raise UserError(f"data.path: {data.path}: no volumes to export")
    images = _one_kind([(ref.id, _volume_images(ref, settings)) for ref in refs])
    cases = volume_cases(refs, recipe.tiles)
    own = data.domains[refs[0].domain].labels if refs[0].domain else None
    facts = {"kind": "volumes", "uri": absolute(str(data.path)), "synthesis": data.synthesis}
    return Source(
        absolute(str(data.path)),
        tuple(cases),
        {case.name: (case,) for case in cases},
        _checked(images, str(data.path), settings),
        _classes(own or data.labels, data.classes),
        3,
        {**facts, "files": {ref.id: file_digests(ref) for ref in refs}},
    )


def run_behind(uri: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """The run in whose folder a set lies: name, job and MLflow run; None where it lies in none."""
    for place in (uri, uri.rstrip("/").rpartition("/")[0]):
        written = read_run(place, options)
        if written is not None:
            return {key: written.get(key) for key in ("name", "job", "mlflow_run_id", "folder")}
    return None


def _tile_case(row: int, tile: dict[str, Any], labelled: bool) -> Case:
    told = {key: value for key, value in tile.items() if key not in ("shard", "position", "label_row")}
    return Case(
        f"tile-{row:06d}",
        str(tile["volume"]),
        str(tile.get("patient") or ""),
        str(tile.get("organ") or ""),
        str(tile["split"]),
        int(tile["fold"]),
        labelled,
        row,
        {"tile": row, **told},
    )


def _rows(index: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows as JSON has them."""
    for row in index.to_dict("records"):
        plain = ((str(key), value.item() if isinstance(value, np.generic) else value) for key, value in row.items())
        yield {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in plain}


def _places(index: pd.DataFrame) -> list[str]:
    """The shard of each tile, in a mixed set with the number of its part."""
    part = index["part"].astype(str) + "-" if "part" in index else ""
    return list(part + index["shard"].astype(str))


def _named(name: str, known: Sequence[str], place: str) -> str:
    if name not in known:
        said = f"{name!r} is no domain" if name else "none given"
        raise UserError(f"export.domain: {said}; {place} has {', '.join(known)}, whose images are no pairs; name one")
    return name


def _volume_images(ref: VolumeRef, settings: Export) -> list[tuple[Layer, str]]:
    """A channel that is both images (`data.one_channel`) is written once."""
    found: dict[str, Layer] = {}
    for role in settings.roles:
        names = ref.anatomy if role == "anatomy" else ref.tumour
        for layer, name in zip(layers_of(role, len(names)), names, strict=True):
            found.setdefault(name or "image", layer)
    return [(layer, name) for name, layer in found.items()]


def _one_kind(images: Sequence[tuple[str, list[tuple[Layer, str]]]]) -> list[tuple[Layer, str]]:
    first, wanted = images[0]
    for name, own in images[1:]:
        if own != wanted:
            ours, theirs = (", ".join(channel for _, channel in one) or "none" for one in (own, wanted))
            raise UserError(
                f"data.volumes: {name!r} has the channels {ours}, and {first!r} {theirs}; an export has the same of "
                "each case: choose with export.roles, or list those alike"
            )
    return wanted


def _checked(images: Sequence[tuple[Layer, str]], place: str, settings: Export) -> tuple[tuple[Layer, str], ...]:
    if not images:
        raise UserError(f"export.roles: {place} has no image that is {' or '.join(settings.roles)}; name another")
    return tuple(images)


def _classes(labels: Labels | None, classes: int) -> tuple[str, ...]:
    """Names by number; those that nobody names are `lesion`, or numbered."""
    if labels:
        return class_names(labels)
    return (BACKGROUND, "lesion") if classes == 2 else (BACKGROUND, *(f"class-{k}" for k in range(1, classes)))
