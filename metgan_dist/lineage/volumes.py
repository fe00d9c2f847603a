"""The end of a chain: the volumes that tiles were cut from, where they lie, and when two are the same tissue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.lineage.link import Link
from metgan_dist.lineage.records import Records
from metgan_dist.recipe import Data, Tiles
from metgan_dist.storage import Options, entries, exists, join, parent
from metgan_dist.tiles.geometry import AXES
from metgan_dist.tiles.survey import file_states, fingerprint
from metgan_dist.tiles.tile_set import MANIFEST, TileSet
from metgan_dist.volumes.dataset import volume_refs
from metgan_dist.volumes.labelled import VolumeRef

PHANTOM = "phantom-"


@dataclass(frozen=True)
class KnownVolume:
    """A volume as a manifest describes it; `paths` are relative to its data set, `cut` is how it was measured."""

    id: str
    shape: tuple[int, ...]
    paths: frozenset[str]
    cut: Any
    intensities: Any

    def same(self, other: KnownVolume) -> bool:
        """Whether both are taken to show the same tissue.

        Data sets may be moved, and cut again in another way, so files and digests cannot decide. Volumes are the same
        when they have the same id, unless both their shapes and their paths within the data set differ (two data sets
        that count their volumes alike). Under different ids they are the same when they have a path within the data set
        and the shape in common, unless the same settings measured different intensities in them.
        """
        shared = bool(self.paths & other.paths)
        if self.id == other.id:
            return shared or self.shape == other.shape
        alike = shared and self.shape == other.shape
        return alike and (self.cut != other.cut or self.intensities == other.intensities)


def known_volumes(manifest: dict[str, Any]) -> dict[str, KnownVolume]:
    """The volumes of a set by id."""
    data = manifest["data"]
    paths = {entry["id"]: entry["path"] or entry["label"] for entry in data.get("volumes", [])}
    cut = [manifest.get("tiles"), data.get("anatomy"), data.get("tumour")]
    return {
        volume["id"]: KnownVolume(
            volume["id"],
            tuple(volume["shape"]),
            frozenset(_listed(paths.get(volume["id"], []))),
            cut,
            volume.get("intensities"),
        )
        for volume in manifest["volumes"]
    }


def _listed(path: str | dict[str, str] | list[str]) -> list[str]:
    if isinstance(path, str):
        return [path]
    return list(path.values()) if isinstance(path, dict) else path


def extent(rows: pd.DataFrame) -> str:
    """How many tiles, and the smallest box of source voxels that holds them: "12 tiles, z 0-8, y 0-64, x 0-64"."""
    box = ", ".join(f"{axis} {rows[f'{axis}0'].min()}-{rows[f'{axis}1'].max()}" for axis in AXES)
    return f"{len(rows)} tile{'s' if len(rows) > 1 else ''}, {box}"


def extents(rows: pd.DataFrame, by: str) -> dict[str, str]:
    """The `extent` of each group of tiles."""
    return {str(name): extent(group) for name, group in rows.groupby(by, sort=False)}


def boxes(rows: pd.DataFrame) -> np.ndarray:
    """Source boxes of tiles, int64 (N, 3, 2): first voxel and the one past the last along z, y, x."""
    return rows[[f"{axis}{end}" for axis in AXES for end in (0, 1)]].to_numpy(np.int64).reshape(-1, len(AXES), 2)


def volume_links(tiles: TileSet) -> Iterator[Link]:
    """The volumes of a set with the regions that each split has of them."""
    described = {entry["id"]: entry for entry in tiles.manifest["data"].get("volumes", [])}
    made = tiles.made_tissue
    for name, rows in tiles.index.groupby("volume", sort=False):
        entry = described.get(name, {})
        facts = {
            "path": ", ".join(_listed(entry.get("path") or [])),
            "label": entry.get("label"),
            "tissue": f"made of its image by {made[str(name)]}" if str(name) in made else None,
            "organ": entry.get("organ"),
            "patient": entry.get("patient"),
            "regions": extents(rows, "split"),
        }
        yield Link("cut from", "volume", str(name), facts)


def located(tiles: TileSet, records: Records, link: str, place: str | None = None) -> dict[str, VolumeRef]:
    """The volumes of a set by id, where they lie, after checking that they are those which the set was cut from.

    A set does not say where its data set is, for that may be moved: whoever asks may (`place`), and the runs that used
    it do. The files are known by name, size and time (see `tiles.survey.fingerprint`). Raises UserError when none of
    the places has them unchanged.
    """
    manifest, reasons = tiles.manifest, []
    data, cut = manifest["data"], Tiles(**manifest["tiles"])
    for base in [place] if place else _bases(tiles, records):
        described = Data(path=base, **data)
        try:
            refs = volume_refs(described, records.options)
        except UserError as error:
            reasons.append(str(error))
            continue
        if fingerprint(described, cut, refs) == manifest.get("fingerprint"):
            return {ref.id: ref for ref in refs}
        reasons.append(
            f"the volumes in {base} are not those that were cut: other files, sizes or times (a copy must keep them)"
        )
    if not reasons:
        reasons = [f"no run in MLflow says where the volumes of {tiles.uri} ({MANIFEST} {tiles.digest[:12]}...) are"]
    raise UserError(f"{link}: {reasons[0]}")


def file_digests(ref: VolumeRef) -> dict[str, str]:
    """The files of a volume and of its labels by URI, with a SHA-256 of what they are known by: name, size and time.

    A label within the image is among the image's files.
    """
    within = [label for label in ref.label_paths if not any(label.startswith(path) for path in ref.paths)]
    return {uri: _states_digest(uri, ref.options) for uri in dict.fromkeys((*ref.paths, *within))}


def check_files(files: Mapping[str, str], options: Options | None, link: str) -> None:
    """UserError, beginning with the link, for a file that is gone, or is not what `file_digests` said of it."""
    for uri, digest in files.items():
        if not exists(uri, options):
            raise UserError(f"{link}: {uri}: not here any more")
        if _states_digest(uri, options) != digest:
            raise UserError(f"{link}: {uri}: was changed afterwards (another size or time; a copy must keep them)")


def _states_digest(uri: str, options: Options | None) -> str:
    return hashlib.sha256(json.dumps(file_states(uri, options)).encode()).hexdigest()


def _bases(tiles: TileSet, records: Records) -> Iterator[str]:
    """Folders that the volumes may be relative to, from the recipes of the runs that used the set."""
    seen = set()
    for run in records.runs_with(tiles.digest):
        written = records.read_run(run.folder) if run.folder else None
        if written is None:
            continue
        path = written["recipe"]["data"]["path"]
        # Without a path the volumes are a phantom, which the runs of one storage share.
        for base in _phantoms(parent(written["folder"]), records) if path is None else [path]:
            if base not in seen and not exists(join(base, MANIFEST), records.options):
                seen.add(base)
                yield base


def _phantoms(storage: str, records: Records) -> list[str]:
    return [join(storage, name) for name in entries(storage, records.options)[1] if name.startswith(PHANTOM)]
