"""A finished set of tiles: its manifest and index, written and read, and the pixels of any tile, normalised."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.recipe import channel_names
from metgan_dist.storage import (
    Options,
    absolute,
    exists,
    file_size,
    filesystem,
    join,
    json_of,
    read_bytes,
    read_json,
    storage_errors,
    write_whole,
)
from metgan_dist.tiles.columns import ChosenColumns, Columns, HeldColumns
from metgan_dist.tiles.intensity import invert
from metgan_dist.tiles.mapped_index import check_index, mapped_columns
from metgan_dist.tiles.organs import organ_names
from metgan_dist.tiles.reader import TileReader
from metgan_dist.tiles.shards import remove_shards
from metgan_dist.volumes.layers import Layer, layers_of

FORMAT = 1
HELD = ("roles", "tile_shape", "normalisation", "index_sha256")  # by every manifest of this format
MANIFEST = "manifest.json"
INDEX = "index.parquet"
PLAN = "plan.json"
TISSUE_MAP = "tissue_map"  # of a volume in the manifest whose map of tissues was made of its image, and how
IMAGES = ("anatomy", "tumour")
SPLITS = ("train", "val", "test", "unseen")
HELD_BYTES = 2**20
"""Of an index.parquet that is held as a frame, as it always was: about 100,000 tiles, 70 MiB in memory."""


class TileSet:
    """Tiles made by `make_tiles`, opened lazily; pixels are read when asked for.

    Attributes:
        uri: folder or URI.
        digest: SHA-256 of the manifest, which holds that of the index.
        manifest: what the set was made from, counts, statistics.
        index: one row a tile, in the order of row numbers: volume, domain ("" where there is none, no column in old
            sets), organ, patient, view, plane, region (z0 ... x1) and padding in source voxels, spacing of a pixel,
            shard and position, split, fold, foreground (label pixels), (low, high) of each layer, label_row (the row
            whose label the tile carries: its own, unless labels were shuffled). Split "gap": left out, too near a
            held-out tile. In a mixed set also part, the number of the set in the manifest's `parts` that has a tile.
        columns: what a stream asks of the index, by rows; of a set whose index is large without holding it.
        parts: the sets that a mixed set consists of; none for others.
        domain: the one whose tiles these are, where they are those of a larger set (see `of_domain`).
    """

    def __init__(
        self,
        uri: str,
        manifest: dict[str, Any],
        digest: str,
        index: pd.DataFrame | Columns,
        options: Options | None,
        parts: Sequence[TileSet] = (),
        domain: str | None = None,
        stored: Mapping[Layer, Layer] | None = None,
    ):
        self.uri, self.manifest, self.digest, self.options = uri, manifest, digest, options
        self.columns: Columns = HeldColumns(index) if isinstance(index, pd.DataFrame) else index
        self.parts, self.domain = tuple(parts), domain
        readers = tuple(part.reader for part in parts)
        clip = manifest["normalisation"]["clip"]
        layers = {role: layers_of(role, max(1, len(self.channels(role)))) for role in manifest["roles"]}
        holds = {name: tuple(domain["holds"]) for name, domain in self.domains.items()}
        self.reader: TileReader = TileReader(uri, digest, layers, clip, options, readers, holds, stored or {})

    @staticmethod
    def open(uri: str, options: Options | None = None) -> TileSet:
        """Open a folder of tiles, mixed or not.

        Raises UserError when there is none, DamagedFile when index and manifest, or a mixed set and its parts, do not
        agree.
        """
        uri = absolute(uri)
        if not exists(join(uri, MANIFEST), options):
            raise UserError(f"{uri}: no finished tiles here ({MANIFEST} is missing); run make_tiles first")
        content = read_bytes(join(uri, MANIFEST), options)
        manifest = json_of(content, join(uri, MANIFEST))
        if manifest.get("format") != FORMAT:
            raise UserError(
                f"{uri}: tiles of format {manifest.get('format')}, this version reads {FORMAT}; make them again"
            )
        json_of(content, join(uri, MANIFEST), holding=HELD)
        digest = hashlib.sha256(content).hexdigest()
        index = _index(join(uri, INDEX), manifest["index_sha256"], digest, options)
        parts = [_part(uri, part, options) for part in manifest.get("parts", [])]
        return TileSet(uri, manifest, digest, index, options, parts)

    @staticmethod
    def write(
        folder: str,
        index: pd.DataFrame,
        manifest: Mapping[str, Any],
        options: Options | None = None,
        shards: Mapping[str, str] | None = None,
    ) -> TileSet:
        """Make a set of the shards in a folder: write index.parquet, then manifest.json, and open it.

        The manifest comes last, and each file appears whole: a folder with a manifest holds a finished set.

        Args:
            folder: where the shards are, or nothing yet for a mixed set.
            index: a row a tile, with the columns that `TileSet` describes.
            manifest: what the set was made from; format and checksums are added.
            shards: SHA-256 of the pixels of each shard, by name, where the manifest is to hold them.
        """
        packed = index.to_parquet(index=False)
        complete = {"format": FORMAT, **manifest, "index_sha256": hashlib.sha256(packed).hexdigest()}
        if shards is not None:
            complete["shards_sha256"] = dict(shards)
        write_whole(join(folder, INDEX), packed, options)
        write_whole(join(folder, MANIFEST), json.dumps(complete, indent=1).encode(), options)
        return TileSet.open(folder, options)

    @property
    def index(self) -> pd.DataFrame:
        """The whole index as a frame; of a large set it is read when this is first asked for."""
        return self.columns.frame

    @property
    def name(self) -> str:
        """What records call the set: what it is, and the beginning of its digest."""
        kind = "mixed" if self.parts else "synthetic" if "synthesis" in self.manifest else "tiles"
        return f"{kind}-{self.digest[:8]}"

    @property
    def made_tissue(self) -> dict[str, str]:
        """How the map of tissues of a volume was made of its image, by the ids of those that had none of their own."""
        return {one["id"]: one[TISSUE_MAP] for one in self.manifest.get("volumes", ()) if one.get(TISSUE_MAP)}

    @property
    def organs(self) -> tuple[str, ...]:
        """The organs that the tiles are of, in the order of their numbers in batches; none where they name none."""
        known = self.manifest.get("organs")
        return tuple(organ_names(self.columns) if known is None else known)

    def channels(self, role: str) -> tuple[str, ...]:
        """Names of the channels of `anatomy` or `tumour`, in the order of a tile's; none for a label."""
        return channel_names(self.manifest.get("data", {}).get(role)) if role in IMAGES else ()

    def layers(self, role: str) -> tuple[Layer, ...]:
        """What is stored of a role, one array of a shard for each of its channels; none of a role that is not there."""
        return self.reader.layers.get(role, ())

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels of every tile, (H, W) or (D, H, W)."""
        return tuple(self.manifest["tile_shape"])

    @property
    def domains(self) -> dict[str, dict[str, Any]]:
        """The manifest's table of domains, source first: role, channels, holds (the roles of its tiles), range rule.

        Empty where anatomy and tumour of a tile are of one place.
        """
        table: dict[str, dict[str, Any]] = self.manifest.get("domains", {})
        return table

    @property
    def held(self) -> dict[str, Sequence[str]]:
        """The roles that each tile of a domain has; those of all tiles under "" where the set has no domains."""
        return {name: domain["holds"] for name, domain in self.domains.items()} or {"": self.manifest["roles"]}

    def has(self, *roles: str) -> bool:
        """Whether there are tiles that have all these roles together."""
        return lacking_role(self.held, roles) is None

    def with_roles(self, *roles: str) -> np.ndarray:
        """Whether a tile has all these roles, bool (rows,)."""
        names = self._holding(*roles)
        return self.index["domain"].isin(names).to_numpy() if self.domains else np.full(len(self.columns), bool(names))

    def _holding(self, *roles: str) -> list[str]:
        """The domains whose tiles have all these roles, as `held` names them."""
        return [name for name, own in self.held.items() if set(roles) <= set(own)]

    def of_domain(self, name: str) -> TileSet:
        """The tiles of one domain as a set of their own without domains, whose image is the `tumour`.

        Nothing is written: row numbers are its own, uri and digest those of the whole set. For who looks at images of
        one kind, such as segmentors of either domain.
        """
        role, chosen = self.domains[name]["role"], {"domain": (name,)}
        rows = self.columns.where(chosen)
        layers = dict(zip(layers_of("tumour", len(self.layers(role))), self.layers(role), strict=True))
        ends = ("low", "high")
        others = [f"{layer}_{end}" for kind in IMAGES if kind != role for layer in self.layers(kind) for end in ends]
        stored_as = {f"{layer}_{end}": f"{stored}_{end}" for layer, stored in layers.items() for end in ends}

        def whole() -> pd.DataFrame:
            index = self.index.iloc[rows].reset_index(drop=True).drop(columns=["domain", *others])
            index["label_row"] = np.searchsorted(rows, index["label_row"])  # labels are shuffled within a domain
            return index.rename(columns={stored: own for own, stored in stored_as.items()})

        volumes = self.columns.distinct("volume", rows)
        held = isinstance(self.columns, HeldColumns)
        index = whole() if held else ChosenColumns(self.columns, chosen, stored_as, whole)
        manifest = {key: value for key, value in self.manifest.items() if key != "domains"} | {
            "roles": ["tumour" if own == role else own for own in self.domains[name]["holds"]],
            "data": _data_of(name, self.manifest["data"], role),
            "volumes": [one for one in self.manifest["volumes"] if one["id"] in volumes],
        }
        return TileSet(self.uri, manifest, self.digest, index, self.options, domain=name, stored=layers)

    def positions(self, split: str, *roles: str) -> np.ndarray:
        """Row numbers of the tiles of a split (train, val, test, unseen) that have `roles`, ascending; may be empty.

        Those of a large set are mapped, and not to be written to.
        """
        domains = self._holding(*roles)
        if not domains:
            return np.arange(0)
        return self.columns.where({"split": (split,), **({"domain": domains} if self.domains else {})})

    def addresses(self, rows: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """What a `TileReader` needs to load these tiles, in this order."""
        rows, take = np.asarray(rows), self.columns.take
        label = take("label_row", rows)
        columns = {
            "shard": take("shard", rows),
            "position": take("position", rows),
            "label_shard": take("shard", label),
            "label_position": take("position", label),
        }
        if self.parts:
            columns["part"] = take("part", rows)
        if self.domains:
            columns["domain"] = take("domain", rows)
        for layer in (*self.layers("anatomy"), *self.layers("tumour")):
            columns |= {f"{layer}_{end}": take(f"{layer}_{end}", rows) for end in ("low", "high")}
        lists = [column.tolist() for column in columns.values()]
        return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]

    def load(self, row: int) -> dict[str, np.ndarray]:
        """One tile, for the roles that it has.

        Returns:
            anatomy, tumour: float32 (C, H, W) or (C, D, H, W), each channel normalised by its own range, in [-1, 1]
                where the set clips;
            label: uint8 (H, W) or (D, H, W).
        """
        return self.reader.load(self.addresses([row])[0])

    def pixels(self, row: int, layer: Layer) -> np.ndarray:
        """A channel of one tile as it was cut, (H, W) or (D, H, W): intensities of the file, beyond its range, too."""
        return self.reader.pixels(self.addresses([row])[0], layer)

    def invert(self, row: int, layer: Layer, image: np.ndarray) -> np.ndarray:
        """An image in the normalised range of a tile's layer -> intensities of the file, float32, same shape."""
        tile = self.index.iloc[row]
        return invert(image, float(tile[f"{layer}_low"]), float(tile[f"{layer}_high"]))


def chosen_rows(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` rows, evenly spaced, always the same ones."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def lacking_role(held: Mapping[str, Sequence[str]], roles: Sequence[str]) -> tuple[str, str] | None:
    """None where tiles of some domain have all `roles`; else the domain that has most of the first, and what it lacks.

    held: the roles of the tiles of each domain, as `TileSet.held`.
    """
    missing = {name: [role for role in roles if role not in own] for name, own in held.items()}
    if not all(missing.values()):
        return None
    domain = max(missing, key=lambda name: roles.index(missing[name][0]))
    return domain, missing[domain][0]


def check_pairs(domains: Collection[str], field: str) -> None:
    """UserError, beginning with `field`, where there are domains: for who needs both images of a place."""
    if domains:
        raise UserError(
            f"{field}: images of two domains ({', '.join(domains)}) are no pairs, and this job takes tiles with an "
            "anatomy and a tumour image of one place; give a data set without domains"
        )


def _data_of(domain: str, data: dict[str, Any], role: str) -> dict[str, Any]:
    """The section `data` of a set with domains as one of them alone would have it, its image being the `tumour`."""
    own = data["domains"][domain]
    listed = [entry | {"domain": None} for entry in data["volumes"] if entry["domain"] == domain]
    without: dict[str, Any] = dict.fromkeys(("source", "target", "synthesis")) | {"anatomy": "", "domains": {}}
    named = {field: own[field] or data[field] for field in ("labels", "unmapped")}
    return data | without | named | {"tumour": data[role], "volumes": listed}


def begin_set(folder: str, plan: dict[str, Any], options: Options | None, afresh: Callable[[], None]) -> dict[str, Any]:
    """Note in a folder what is being made there; returns the plan that it was begun with.

    That is `plan`, or the plan of an earlier start with the same `fingerprint`, whose shards stay. What was made of
    something else is removed, after a call of `afresh`.
    """
    uri = join(folder, PLAN)
    if exists(uri, options):
        begun = read_json(uri, options, holding=("fingerprint",))
        if begun["fingerprint"] == plan["fingerprint"]:
            return begun
        afresh()
        fs, manifest = filesystem(join(folder, MANIFEST), options)
        with storage_errors(folder):
            if fs.exists(manifest):
                fs.rm_file(manifest)  # first: a set without its shards is none
        remove_shards(folder, options)
    write_whole(uri, json.dumps(plan).encode(), options)
    return plan


def finished_fingerprint(folder: str, options: Options | None) -> str | None:
    """The fingerprint of the finished set in a folder, "" where it has none; None where there is no finished set."""
    uri = join(folder, MANIFEST)
    return read_json(uri, options).get("fingerprint", "") if exists(uri, options) else None


def _index(uri: str, sha256: str, digest: str, options: Options | None) -> pd.DataFrame | Columns:
    """The index of a set: a frame, or its columns mapped where it is large."""

    def whole() -> pd.DataFrame:
        packed = read_bytes(uri, options)
        check_index(uri, hashlib.sha256(packed).hexdigest(), sha256)
        return pd.read_parquet(io.BytesIO(packed))

    size = file_size(uri, options)
    if size is None:
        raise DamagedFile(f"{uri}: not here, though {MANIFEST} is; copy the tiles again, or make them anew")
    if size <= HELD_BYTES:
        return whole()
    return mapped_columns(uri, sha256, digest, options, whole)


def open_part(uri: str, options: Options | None, domain: str | None = None) -> TileSet:
    """The set at `uri`, or the tiles of one of its domains alone."""
    tiles = TileSet.open(uri, options)
    return tiles if domain is None else tiles.of_domain(domain)


def _part(mixture: str, entry: dict[str, Any], options: Options | None) -> TileSet:
    """A part of a mixed set, as it was when the sets were mixed."""
    part = open_part(entry["uri"], options, entry.get("domain"))
    if part.digest != entry["digest"]:
        raise DamagedFile(f"{part.uri}: not the tiles that were mixed into {mixture}; its manifest has changed since")
    return part
