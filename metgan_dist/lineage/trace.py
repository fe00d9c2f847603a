"""What lineage.py does: find what is asked for, follow it both ways, print it, and say what is broken."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from metgan_dist import tracking
from metgan_dist.errors import UserError
from metgan_dist.lineage.link import Link
from metgan_dist.lineage.records import GENERATED, Records
from metgan_dist.lineage.walk import Walk, run_facts
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.storage import absolute, join
from metgan_dist.tracking import LoggedRun

FORMATS = ("text", "json")
_ID, _DIGEST = r"[0-9a-f]{32}", r"[0-9a-f]{36}|[0-9a-f]{64}"


def trace(command: Command) -> str:
    """Print the chain of the run or data set that the command line names; there is no result to keep.

    Raises UserError, after printing what is sound, in one line that names the first broken link.
    """
    recipe, style = command.recipe, _style(command.own["format"])
    store = tracking.tracking_uri(recipe.tracking, recipe.storage)
    tracking.check_server(store)
    records = Records([store], recipe.storage.options)
    chain = follow(command.own["reference"], recipe.storage.path, records)
    if style == "json":
        say(json.dumps(chain.tree(), indent=1))
    else:
        say("\n".join(chain.lines()))
    reasons = list(chain.breaks())
    if reasons:
        more = f" (and {len(reasons) - 1} more broken link(s), see above)" if len(reasons) > 1 else ""
        raise UserError(f"broken link: {reasons[0]}{more}")
    return ""


def _style(given: Sequence[str]) -> str:
    if len(given) > 1 or (given and given[0] not in FORMATS):
        raise UserError(f"--format {','.join(given)}: give one of {', '.join(FORMATS)}")
    return given[0] if given else FORMATS[0]


def follow(references: Sequence[str], storage: str, records: Records) -> Link:
    """The chain of a run (its name under `storage`, its folder, its MLflow id) or of a data set (folder, digest).

    A data set comes with the runs that used and made it. Raises UserError when the reference names neither.
    """
    if len(references) != 1:
        raise UserError("RUN: name one run or data set")
    reference = references[0]
    places = [join(absolute(storage), reference), absolute(reference)]
    for folder in reversed(places) if "/" in reference or reference in (".", "..") else places:
        if written := records.read_run(folder):
            if written.get("mlflow_run_id") is None:
                raise UserError(f"{folder}: this run has no MLflow run; start it again")
            return Walk(records).run("", written["mlflow_run_id"], f"run {reference}")
        if digest := records.digest_at(folder):
            return _both_ways(folder, digest, records)
    if re.fullmatch(_ID, reference):
        return Walk(records).run("", reference, f"run {reference}")
    if re.fullmatch(_DIGEST, reference):
        for run in records.runs_with(reference):
            for logged in run.datasets:
                if reference.startswith(logged.digest):
                    return _both_ways(logged.uri, reference, records)
        raise UserError(f"{reference}: no run in MLflow has a data set of this digest")
    raise UserError(
        f"{reference}: no run or data set; give a run's name under {storage}, the folder of a run or of tiles, an "
        "MLflow run id, or a data set's digest"
    )


def _both_ways(uri: str, digest: str, records: Records) -> Link:
    """Back to the volumes, and forward to every run that has the set logged."""
    chain = Walk(records).data("", uri, digest, f"data set {uri}")
    for run in records.runs_with(digest):
        for context in dict.fromkeys(logged.context for logged in run.datasets if digest.startswith(logged.digest)):
            chain.sources.append(_user(run, context))
    return chain


def _user(run: LoggedRun, context: str) -> Link:
    role = "made by" if context == GENERATED else f"used by ({context})"
    facts: dict[str, Any] = run_facts(run)
    if run.deleted:
        facts["deleted"] = f"in MLflow; mlflow runs restore --run-id {run.id}"
    return Link(role, "run", f"{run.name} ({run.job})", facts)
