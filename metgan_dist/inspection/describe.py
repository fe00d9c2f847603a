"""From a path to what is understood of the data set there, and to all that is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import yaml

from metgan_dist.cluster.progress import Progress
from metgan_dist.errors import UserError
from metgan_dist.inspection.finding import Finding
from metgan_dist.inspection.report import class_table, lines_of, table, worst
from metgan_dist.inspection.segmentor_plan import plan_lines
from metgan_dist.inspection.volume import Inspected, inspect
from metgan_dist.inspection.whole_set import of_the_set
from metgan_dist.recipe import Data
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.storage import Options, absolute, basename, exists, join, write_whole
from metgan_dist.tiles.tile_set import MANIFEST
from metgan_dist.volumes.dataset import (
    DESCRIPTION,
    check_list,
    check_listed_once,
    described_at,
    resolve_data,
    volume_ref,
)
from metgan_dist.volumes.labelled import VolumeRef, open_image

REPORT, PICTURE = "report.txt", "worst.png"
AT_ONCE = 4  # volumes, each a piece or a whole .nii.gz in memory


def describe(command: Command) -> str:
    """Print and keep the dataset.yaml that is understood, a table of the volumes, and what is wrong; URI of the report.

    Kept in `describe-NAME` under storage.path: dataset.yaml, report.txt, and worst.png where there is something to see.

    Raises UserError, when all has been told, for a set with errors, and for a path with no data set.
    """
    options, storage = command.recipe.storage.options, absolute(command.recipe.storage.path)
    data, how = _understood(command, options)
    text = yaml.safe_dump(_description(data), sort_keys=False, allow_unicode=True)
    say(how)
    say(text)
    volumes, findings = _inspected(data, options, say)
    errors = sum(finding.kind == "error" for finding in findings)
    warnings = len(findings) - errors
    verdict = f"{len(data.volumes)} volume(s): {errors} error(s), {warnings} warning(s)"
    tables = [*table(volumes), "", *class_table(volumes), ""]
    lines = [*tables, *plan_lines(volumes, data.classes), *lines_of(findings), verdict]
    for line in lines:
        say(line)
    folder = join(storage, f"describe-{basename(absolute(str(command.recipe.data.path))).partition('.')[0]}")
    write_whole(join(folder, DESCRIPTION), text.encode(), options)
    write_whole(join(folder, REPORT), "\n".join([how, text, *lines, ""]).encode(), options)
    picture = worst(volumes, findings)
    if picture is not None:
        write_whole(join(folder, PICTURE), picture, options)
        say(f"pictures: {join(folder, PICTURE)}")
    if errors:
        raise UserError(f"{data.path}: {errors} error(s) in the data set, one a line above; also in {folder}/{REPORT}")
    return join(folder, REPORT)


def _understood(command: Command, options: Options | None) -> tuple[Data, str]:
    """The data section with the set's own description read in, and a line that says what that is.

    Where neither set, recipe nor flags say which channel is which, the first one that the first volume has is taken for
    the anatomy, and a second one for the tumour.
    """
    data = command.own_data
    if not data.path:
        raise UserError("data.path: empty; give the data set that is to be described")
    path = absolute(data.path)
    if exists(join(path, MANIFEST), options):
        raise UserError(f"{path}: tiles, which were cut from volumes; give the volumes' data set")
    resolved = resolve_data(data, options)
    found = None if data.volumes else described_at(path, options)
    if found is not None:
        said = {name for name in ("anatomy", "tumour") if getattr(found.description, name) is not None}
        how = f"{found.place}: " + (f"read as {found.layout}" if found.layout else "a description")
    else:
        said, how = set(), f"{path}: " + ("volumes of the recipe" if data.volumes else "one volume")
    unsaid = {"anatomy", "tumour"} - said - data.model_fields_set
    return resolved.model_copy(update=_taken(resolved, options, unsaid)), how


def _taken(data: Data, options: Options | None, unsaid: set[str]) -> dict[str, Any]:
    """Channels for the roles of which nothing is said: those of the first volume, in their order.

    Of two domains each has its own already.
    """
    if not unsaid or data.domains:
        return {}
    for entry in data.volumes:
        if entry.path is None:
            continue
        try:
            ref = volume_ref(data, entry, options)
            assert ref is not None
            labels = (entry.label, *ref.wanted_labels)
            first, *more = [name for name in open_image(ref).channels if name not in labels]
        except (UserError, ValueError):
            continue  # told of where it is inspected
        return {role: name for role, name in (("anatomy", first), ("tumour", (more or [""])[0])) if role in unsaid}
    return {}


def _description(data: Data) -> dict[str, Any]:
    """The data set as a dataset.yaml would have it."""
    images = {"domains", "source", "target"} if data.domains else {"anatomy", "tumour"}
    named = {*images, "labels", "unmapped", "parenchyma", "tissue_map", "orientation", "synthesis"}
    told = data.model_dump(include=named, exclude_none=True)
    if data.labels is None:
        told["classes"] = data.classes
    volumes = [entry.model_dump(mode="json", exclude_defaults=True) for entry in data.volumes]
    return {name: value for name, value in told.items() if value is not None} | {"volumes": volumes}


def _inspected(
    data: Data, options: Options | None, report: Callable[[str], None]
) -> tuple[list[Inspected], list[Finding]]:
    """All volumes whose files are there, read to their end, and all findings."""
    refs, findings = _references(data, options)
    progress = Progress(report, "described", len(refs), unit="volumes")
    volumes: list[Inspected] = []
    with ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1)) as pool:
        for found in pool.map(inspect, refs):
            volumes.append(found)
            progress.step(len(volumes))
    for found in volumes:
        findings += found.findings
    return volumes, [*findings, *of_the_set(volumes)]


def _references(data: Data, options: Options | None) -> tuple[list[VolumeRef], list[Finding]]:
    """The volumes whose files are there, and why others are not, volume by volume; then what is wrong with the list."""
    refs: list[VolumeRef] = []
    findings: list[Finding] = []
    for entry in data.volumes:
        try:
            ref = volume_ref(data, entry, options)
        except UserError as error:
            findings.append(Finding("error", entry.id, str(error)))
            continue
        refs += [] if ref is None else [ref]
    try:
        check_list(data, data.path)
        check_listed_once(refs)
    except UserError as error:
        findings.append(Finding("error", "", str(error)))
    return refs, findings
