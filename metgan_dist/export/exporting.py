"""What export.py does: a tile set or a data set of volumes in the form of another tool, with what is behind each case.

Beside images and labels lie cases.csv (volume, patient, split of each), lineage.json (the set, its digest, run and
models, and of each case its origin) and checksums.sha256 (as sha256sum reads it), which is written last: a folder that
has it is finished. A task writes a batch of cases, a volume or the tiles of a shard; those that are there are not
written again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from metgan_dist.code_version import code_version
from metgan_dist.errors import UserError
from metgan_dist.export.case import check_whole_patients
from metgan_dist.export.nn_unet import check_id, dataset_folder, dataset_json, splits_final
from metgan_dist.export.source import Source, run_behind, tile_source, volume_source
from metgan_dist.export.writing import Batch, Order, check_order, write_batch
from metgan_dist.recipe import Recipe
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun, is_tile_set, run_recipe
from metgan_dist.storage import absolute, entries, exists, join, read_json, write_whole
from metgan_dist.synthesis.passes import PLAN, Pass, begin_pass

MARKERS, LINEAGE, CHECKSUMS, CASES = "exported", "lineage.json", "checksums.sha256", "cases.csv"


def export(command: Command) -> str:
    """The job: checks, run, files, result."""
    command = replace(command, recipe=command.recipe.model_copy(update={"data": command.own_data}))
    planned = Exporting.planned(command.recipe)
    return run_recipe(command, "export", planned.carry_out)


@dataclass(frozen=True)
class Exporting:
    """An export that can be made: of what, and what all its batches share (`order`, but for the folder)."""

    recipe: Recipe
    source: Source
    order: Order

    @staticmethod
    def planned(recipe: Recipe) -> Exporting:
        """Everything that can be checked before a run is opened; UserError in one line for what does not fit."""
        settings = recipe.export
        source = tile_source(recipe) if is_tile_set(recipe) else volume_source(recipe)
        folder = _folder(recipe, "")
        units = {} if source.tiles is None else {one["id"]: one.get("unit") for one in source.tiles.manifest["volumes"]}
        order = Order(
            settings,
            folder,
            source.images,
            source.classes,
            source.dimensions,
            None if source.tiles is None else source.uri,
            None if source.tiles is None else source.tiles.domain,
            units,
            recipe.storage.options,
        )
        check_order(order, source.cases, source.tiles)
        if settings.format == "nnunet":
            check_whole_patients(source.cases, settings.splits)
        if settings.folder is not None:
            _check_outside(absolute(settings.folder), source.uri)
            if settings.format == "nnunet":
                check_id(absolute(settings.folder), settings.id, settings.name, recipe.storage.options)
        return Exporting(recipe, source, order)

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job; cases that an earlier start of the run finished are not written again.

        The result gets the artefact `export`, the digest of all files, and counts of cases.
        """
        order = replace(self.order, folder=_folder(self.recipe, opened.run.folder))
        markers, cases = join(opened.run.folder, MARKERS), self.source.cases
        self._begin(order, markers)
        say(f"export: {len(cases)} case(s) as {order.settings.format}; {order.folder}")
        with opened.result.phase("export"):
            known = self._written(order, markers)
        with opened.result.phase("records"):
            digest = self._describe(order, known)
        with opened.log() as log:
            log.dataset(f"export-{digest[:8]}", order.folder, digest, "exported", len(cases))
        opened.result.artefacts |= {"export": order.folder, "export_sha256": digest}
        opened.result.scores["export"] = {"cases": len(cases), "files": sum(len(one["files"]) for one in known)}
        say(f"digest: {digest}")

    def _begin(self, order: Order, markers: str) -> None:
        """UserError for a folder in which something lies that is not of this export."""
        options = order.options
        facts = {
            "settings": order.settings.model_dump(mode="json"),
            "folder": order.folder,
            "source": json.loads(json.dumps(self.source.facts, default=str)),
            "cases": [case.row for case in self.source.cases],
        }
        plan = join(markers, PLAN)
        begun = exists(plan, options) and read_json(plan, options) == facts
        if not begun and exists(order.folder, options) and any(entries(order.folder, options)):
            raise UserError(
                f"export.folder: {order.folder} is not empty, and what lies there is not of this export; name another "
                "folder, or remove it"
            )
        begin_pass(markers, facts, options, say, "export: something else was begun before; it is started afresh")

    def _written(self, order: Order, markers: str) -> list[dict[str, Any]]:
        """What is known of all cases, in their order."""
        work = Pass("export", markers, order.options, say, unit="batches")
        jobs = {name: Batch(order, cases) for name, cases in self.source.batches.items()}
        run: Callable[..., Any] = work.in_turn if self.recipe.scaling.in_process else work.tasks
        by_name = {one["case"]: one for batch in run(write_batch, jobs) for one in batch["cases"]}
        return [by_name[case.name] for case in self.source.cases]

    def _describe(self, order: Order, known: list[dict[str, Any]]) -> str:
        """Write what is of no single case, the checksums last; SHA-256 of the files of all cases."""
        options, cases = order.options, self.source.cases
        extra = {CASES: pd.DataFrame([case.row for case in cases]).to_csv(index=False).encode()}
        split = None
        if order.settings.format == "nnunet":
            extra["dataset.json"] = dataset_json(self.source.channels, self.source.classes, cases)
            split = None if order.settings.splits == "none" else splits_final(cases)
            if split is None:
                say("export: no splits_final.json, since there are no two sides; nnU-Net draws its own folds")
            else:
                extra["splits_final.json"] = split
        for name, content in extra.items():
            write_whole(join(order.folder, name), content, options)
        sums = {name: digest for one in known for name, digest in one["files"].items()}
        sums |= {name: hashlib.sha256(content).hexdigest() for name, content in extra.items()}
        digest = hashlib.sha256(_listed(sums)).hexdigest()
        lineage = json.dumps(self._lineage(order, known, digest), indent=1, default=str).encode()
        write_whole(join(order.folder, LINEAGE), lineage, options)
        write_whole(
            join(order.folder, CHECKSUMS), _listed({**sums, LINEAGE: hashlib.sha256(lineage).hexdigest()}), options
        )
        return digest

    def _lineage(self, order: Order, known: list[dict[str, Any]], digest: str) -> dict[str, Any]:
        settings = order.settings
        values = "as the files of the volumes have them"
        if self.source.tiles is not None:
            normalised = "float32, each channel normalised by its range, in [-1, 1] where the set clips"
            values = normalised if settings.values == "normalised" else "as the tiles were cut"
        scale = None if settings.png_range is None else {"0": settings.png_range[0], "65535": settings.png_range[1]}
        return {
            "format": settings.format,
            "digest": digest,
            "code": code_version(),
            "source": {**self.source.facts, "run": run_behind(self.source.uri, order.options)},
            "channels": list(self.source.channels),
            "labels": dict(enumerate(self.source.classes)),
            "values": values,
            "png_scale": scale,
            "splits": settings.splits if settings.format == "nnunet" else None,
            "cases": {one["case"]: one["origin"] for one in known},
        }


def _listed(sums: Mapping[str, str]) -> bytes:
    """As sha256sum writes and reads it."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def _folder(recipe: Recipe, run: str) -> str:
    settings = recipe.export
    place = join(run, "export") if settings.folder is None else absolute(settings.folder)
    return join(place, dataset_folder(settings.id, settings.name)) if settings.format == "nnunet" else place


def _check_outside(folder: str, source: str) -> None:
    """UserError for a folder within the source."""
    if f"{folder.rstrip('/')}/".startswith(f"{absolute(source).rstrip('/')}/"):
        raise UserError(f"export.folder: {folder} lies within {source}, which is exported; name one elsewhere")
