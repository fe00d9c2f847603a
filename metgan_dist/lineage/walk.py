"""From a run or a data set back to the volumes, link by link; a broken link ends its branch, not the walk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.lineage.link import Link
from metgan_dist.lineage.records import (
    COMPARED,
    GENERATED,
    INSERTED_INTO,
    LABELLED,
    MASKS,
    MEASURED,
    PARTS,
    SEEN,
    SYNTHESIS,
    TRANSLATOR,
    VOXELS,
    Records,
    starts,
)
from metgan_dist.lineage.tissue import is_of_volumes, is_translated
from metgan_dist.lineage.volumes import check_files, extents, located, volume_links
from metgan_dist.tiles.tile_set import TISSUE_MAP, TileSet
from metgan_dist.tracking import LoggedRun


class Walk:
    """One walk through the records; what was met before is named again, not walked again."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._met: set[str] = set()

    def run(self, role: str, run_id: str, link: str) -> Link:
        """A run with the data sets that it used and generated, and the runs that it compared or is the parent of."""
        return self._link(role, "run", run_id, lambda found: self._follow_run(found, run_id, link))

    def data(self, role: str, uri: str, digest: str, link: str) -> Link:
        """Tiles or synthetic volumes, checked against the digest that is recorded, with what they were made from."""

        def follow(found: Link) -> None:
            """Down a synthetic volume, or a set of translated ones, where one is recorded at `uri`, else down tiles."""
            if made := self._records.volume_at(uri):
                self._follow_synthetic_volume(found, made, digest, link)
            elif made := self._records.translated_at(uri):
                self._follow_translated(found, made, digest, link)
            else:
                self._follow_tiles(found, digest, link)

        return self._link(role, "tiles", uri, follow)

    def _link(self, role: str, kind: str, name: str, follow: Callable[[Link], None]) -> Link:
        """Fill a link as far as it is sound."""
        found = Link(role, kind, name)
        try:
            follow(found)
        except UserError as error:
            found.broken = " ".join(str(error).split())
        return found

    def _again(self, found: Link, key: str) -> bool:
        found.again = key in self._met
        self._met.add(key)
        return found.again

    def _follow_run(self, found: Link, run_id: str, link: str) -> None:
        run = self._records.run(run_id, link)
        found.name = f"{run.name} ({run.job})"
        found.facts |= run_facts(run)
        if self._again(found, run.id):
            return
        written = self._records.folder_of(run, link)
        if written is not None:
            given = written["recipe"]["method"]
            found.facts |= {name: given.get(name) for name in ("segmentor", "judge", "judge_source")}
            for stage, model in starts(written):
                role, what = ("started from", "start") if stage is None else (f"{stage} from", f"stage {stage}")
                found.sources.append(self._checkpoint(role, model, f"{what} of run {run.name}"))
        for logged in sorted(run.datasets, key=lambda logged: (logged.context == GENERATED, logged.context)):
            found.sources.append(
                self.data(logged.context, logged.uri, logged.digest, f"{logged.context} data of run {run.name}")
            )
        for tag, compared in sorted(run.tags.items()):
            if tag.startswith(COMPARED):
                found.sources.append(self.run("compared", compared, f"run {tag.removeprefix(COMPARED)}"))
        for nested in self._records.nested(run):
            found.sources.append(self.run("nested", nested.id, f"run {nested.name} of run {run.name}"))

    def _follow_tiles(self, found: Link, digest: str, link: str) -> None:
        tiles = self._records.tiles(found.name, digest, link)
        synthetic, mixed = SYNTHESIS in tiles.manifest, PARTS in tiles.manifest
        found.kind = "synthetic tiles" if synthetic else "mixed tiles" if mixed else "tiles"
        found.facts |= {"digest": tiles.digest, "splits": counts(tiles.index["split"])}
        if self._again(found, f"{tiles.uri} {tiles.digest}"):
            return
        if synthetic and is_translated(tiles):
            self._follow_volumes(found, tiles, link)
            made = tiles.manifest[SYNTHESIS]
            run = self._records.generated_by(tiles, f"synthetic tiles {tiles.uri}")
            place = next((one.uri for one in run.datasets if one.context == GENERATED), tiles.uri)
            found.sources.append(self.data("volumes", place, str(made[VOXELS]), f"volumes of tiles {tiles.uri}"))
        elif synthetic:
            self._follow_synthesis(found, tiles)
        elif mixed:
            for part in tiles.manifest[PARTS]:
                found.sources.append(self.data("part", part["uri"], part["digest"], f"part of mixed tiles {tiles.uri}"))
        else:
            self._follow_volumes(found, tiles, link)

    def _follow_volumes(self, found: Link, tiles: TileSet, link: str) -> None:
        volumes = list(volume_links(tiles))
        found.sources += volumes
        refs = located(tiles, self._records, f"volumes of tiles {tiles.uri}")
        for volume in volumes:
            volume.facts["path"] = list(refs[volume.name].paths)
            labels = refs[volume.name].label_paths
            volume.facts["label"] = list(labels) if len(labels) > 1 else next(iter(labels), None)

    def _follow_synthesis(self, found: Link, tiles: TileSet) -> None:
        made, link = tiles.manifest[SYNTHESIS], f"synthetic tiles {tiles.uri}"
        found.facts |= {
            "kinds": counts(tiles.index["kind"]),
            "anatomy": extents(tiles.index, "volume"),
            "settings": made["settings"],
        }
        found.sources.append(self._link("generated by", "run", tiles.uri, lambda run: self._producer(run, tiles, link)))
        # The generator first: its run may name the MLflow store that knows the tiles.
        for role, name in (("generator", "model"), ("gate", "segmentor")):
            if made.get(name) is not None:
                found.sources.append(self._checkpoint(role, made[name], f"{role} of {link}"))
        source = self.data("anatomy and labels", made["tiles"]["uri"], made["tiles"]["digest"], f"source of {link}")
        found.sources.append(source)
        if source.broken is None:
            found.facts |= label_facts(tiles, TileSet.open(source.name, self._records.options))

    def _follow_synthetic_volume(self, found: Link, made: dict[str, Any], digest: str, link: str) -> None:
        found.kind = "synthetic volume"
        facts = {"anatomy": made["source"]["volume"], "label": made["source"]["label"]}
        self._follow_voxels(found, made, facts, digest, link)

    def _follow_translated(self, found: Link, made: dict[str, Any], digest: str, link: str) -> None:
        found.kind = "synthetic volumes"
        drawn = SEEN in made
        whose = made[SEEN] if drawn else [one["volume"] for one in made["volumes"]]
        facts = {"learned from" if drawn else "originals": whose, "settings": made["settings"]}
        if made_tissue := made.get(TISSUE_MAP):
            facts["tissue"] = f"made of their images by {made_tissue}"
        self._follow_voxels(found, made, facts, digest, link)

    def _follow_voxels(self, found: Link, made: dict[str, Any], facts: dict[str, Any], digest: str, link: str) -> None:
        """Synthetic voxels by their digest, and what they were made with."""
        known = str(made[VOXELS])
        found.facts |= {"voxels": known, **facts}
        if not known.startswith(digest):
            raise UserError(f"{link}: {found.name}: its voxels have SHA-256 {known[:12]}..., recorded {digest[:12]}...")
        if self._again(found, f"{found.name} {known}"):
            return
        name = f"{found.kind} {found.name}"
        used = made["tiles"]
        if made["model"]["uri"] is None:
            found.facts |= {"made by": made["model"]["method"], MEASURED: made.get(MEASURED)}
        else:
            role = "segmentor" if LABELLED in made else "generator"
            found.sources.append(self._checkpoint(role, made["model"], f"{role} of {name}"))
        if made.get(TRANSLATOR) is not None:
            found.sources.append(self._checkpoint(TRANSLATOR, made[TRANSLATOR], f"{TRANSLATOR} of {name}"))
        if is_of_volumes(made):
            self._follow_brought(found, made, name)
            return
        what = "masks" if SEEN in made else "intensities"
        found.sources.append(self.data(what, used["uri"], used["digest"], f"{what} of {name}"))

    def _follow_brought(self, found: Link, made: dict[str, Any], name: str) -> None:
        """The slice that harmonised, then the volumes that got tumours and those that gave them, or those that were
        labelled, file by file.

        Where these are synthetic themselves, on to what they were made of.
        """
        if made["tiles"] is not None:
            place, image = made["tiles"], made["model"]["image"]
            learned = self.data("learned from", place["uri"], place["digest"], f"tiles of {name}")
            learned.facts = {"image": f"{image['volume']}, {image['view']} {image['plane']}"} | learned.facts
            found.sources.append(learned)
        roles = {"labelled": ""} if LABELLED in made else {"inserted into": "", "tumour of": "mask_"}
        for one in made["volumes"]:
            for role, begin in roles.items():
                found.sources.append(self._files(role, begin, one, name))
        for role, key in (("inserted into", INSERTED_INTO), ("labelled", LABELLED), ("tumours of", MASKS)):
            place = made.get(key)
            if place is not None and place[VOXELS] is not None:
                found.sources.append(self.data(role, place["uri"], place[VOXELS], f"volumes {role} {name}"))

    def _files(self, role: str, begin: str, one: dict[str, Any], name: str) -> Link:
        """A volume by its files, which must be as they were; `begin`: of the fields of `one` that tell of it."""

        def follow(found: Link) -> None:
            """Facts, then the check."""
            files = one[f"{begin}files"]
            voxels = one.get(f"{begin or 'source_'}sha256")
            found.facts |= {"of": one["id"], "patient": one[f"{begin}patient"], "path": list(files)}
            found.facts |= {"voxels": voxels} if voxels else {}
            check_files(files, self._records.options, f"{role} {one['id']} of {name}")

        return self._link(role, "volume", one["mask" if begin else "volume"], follow)

    def _producer(self, found: Link, tiles: TileSet, link: str) -> None:
        """The run that generated a set; its other data sets are those that the set's manifest names."""
        run = self._records.generated_by(tiles, link)
        found.name = f"{run.name} ({run.job})"
        found.facts |= run_facts(run)
        found.again = run.id in self._met
        self._records.folder_of(run, link)

    def _checkpoint(self, role: str, model: dict[str, Any], link: str) -> Link:
        def follow(found: Link) -> None:
            """The file against its recorded digest, then the run that trained it; UserError where they do not fit."""
            found.facts |= {"method": model.get("method"), "sha256": model["sha256"], "image": model.get("image")}
            self._records.checkpoint(model["uri"], model["sha256"], link)
            run = self._records.trained_by(model["uri"], model.get("run"), link)
            found.sources.append(self.run("trained by", run.id, link))

        return self._link(role, "checkpoint", model["uri"], follow)


def run_facts(run: LoggedRun) -> dict[str, Any]:
    """What a person asks first of a run."""
    return {"MLflow run": run.id, "status": run.status, "folder": run.folder}


def counts(column: pd.Series) -> dict[str, int]:
    """How often each value occurs."""
    return {str(name): int(count) for name, count in column.value_counts(sort=False).items()}


def label_facts(synthetic: TileSet, source: TileSet) -> dict[str, Any]:
    """Where the labels of a synthetic set are from: regions of volumes, files of the user's own."""
    rows, files = label_origins(synthetic)
    return {
        "labels": extents(source.index.iloc[sorted(set(rows))], "volume") if rows else {},
        "label files": [f"{name} (in {count} tiles)" for name, count in sorted(files.items())],
    }


def label_origins(synthetic: TileSet) -> tuple[list[int], Counter[str]]:
    """(rows of the source set whose labels were laid into the tiles, how many tiles took each file)."""
    rows: list[int] = []
    files: Counter[str] = Counter()
    for origin in _origins(synthetic):
        if "tile" in origin:
            rows.append(int(origin["tile"]))
        else:
            files[origin["file"]] += 1
    return rows, files


def _origins(synthetic: TileSet) -> Iterator[dict[str, Any]]:
    for text in synthetic.index["label_sources"]:
        yield from json.loads(text)
