"""An open run: what can be checked is checked first, a cluster is joined, and whatever happens is on record."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch

from metgan_dist import tracking
from metgan_dist.cluster.joining import cluster, is_local, plan_for_cluster, wait_for_room
from metgan_dist.cluster.resources import ResourcePlan, plan_resources
from metgan_dist.code_version import code_version
from metgan_dist.errors import UserError, understood
from metgan_dist.methods import method_class
from metgan_dist.recipe import Data, Recipe, Tiles
from metgan_dist.runs import description
from metgan_dist.runs.children import termination_as_interrupt
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import Result, say
from metgan_dist.runs.run_folder import Run, forget, open_run, record, removed
from metgan_dist.storage import basename, exists, filesystem, join, write_whole
from metgan_dist.tiles.tile_set import MANIFEST, TileSet
from metgan_dist.volumes.dataset import check_channels, resolve_data, volume_refs
from metgan_dist.weights import PUBLISHED, weights_path

VERDICTS: dict[str, tracking.Status] = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "stopped": tracking.STOPPED,
}


@dataclass
class OpenRun:
    """An open run with everything its stages need."""

    recipe: Recipe
    run: Run
    plan: ResourcePlan
    tracking_uri: str
    result: Result
    page: str = ""  # of the run, in MLflow

    @property
    def spool(self) -> Path:
        """Where records wait for an absent MLflow server: beside the run, or on this machine for object storage."""
        if "://" not in self.run.folder:
            return Path(self.run.folder) / "spool"
        return Path(tempfile.gettempdir()) / f"metgan-spool-{self.run.mlflow_run_id}"

    @contextmanager
    def log(self) -> Iterator[tracking.RunLogger]:
        """MLflow for the driver's own records."""
        assert self.run.mlflow_run_id is not None
        logger = tracking.RunLogger(
            self.tracking_uri, self.run.mlflow_run_id, self.spool, self.recipe.tracking.patience, report=say
        )
        try:
            yield logger
        finally:
            logger.close()

    def start(self, find: Callable[[], dict[str, Any] | None]) -> str | None:
        """The checkpoint with whose weights the run begins: what `find` finds at its first start, on record since.

        None where the recipe names none.
        """
        if self.recipe.training.start_from is None:
            return None
        if self.run.start is None:
            self.run = record(replace(self.run, start=find()), self.recipe, self.run.mlflow_run_id)
        assert self.run.start is not None
        uri = str(self.run.start["uri"])
        self.result.artefacts["start_from"] = uri
        say(f"weights to start from: {uri}")
        return uri

    def stages(self, find: Callable[[], dict[str, dict[str, Any]]]) -> dict[str, str]:
        """The checkpoints that stand for stages of the run, by stage: on record like `start`."""
        if not self.recipe.training.stages_from:
            return {}
        if self.run.stages is None:
            self.run = record(replace(self.run, stages=find()), self.recipe, self.run.mlflow_run_id)
        assert self.run.stages is not None
        taken = {stage: str(model["uri"]) for stage, model in self.run.stages.items()}
        for stage, uri in taken.items():
            self.result.artefacts[f"stage_{stage}"] = uri
            say(f"stage {stage}: taken from {uri}")
        return taken

    def keep(self, files: Mapping[str, bytes], artefacts: Mapping[str, str] | None = None) -> None:
        """Write files into the run's folder, log them to MLflow and name their URIs in the result.

        Args:
            files: contents by path in the folder, e.g. ``plots/a.png``.
            artefacts: what the result calls a file, by path; its own name with "_" for ".", e.g. ``a_png``, otherwise.
        """
        names = {path: basename(path).replace(".", "_") for path in files} | dict(artefacts or {})
        with self.log() as log:
            for path, content in files.items():
                uri = join(self.run.folder, path)
                write_whole(uri, content, self.run.options)
                log.content(content, path)
                self.result.artefacts[names[path]] = uri


def run_recipe(
    command: Command,
    job: str,
    work: Callable[[OpenRun], object],
    tags: Mapping[str, str] | None = None,
    check: Callable[[Recipe], Sequence[str] | None] = lambda _recipe: None,
) -> str:
    """Check everything that can be checked, join a cluster, open the run, do `work`, and write `result.json`.

    `tags` go to the MLflow run beside the usual ones. `check` raises UserError for what keeps `work` from being done,
    as far as it can be known before; what it returns, lines on what the work will be, a dry run tells.

    Returns the URI of the result, or "" for a dry run. Mistakes that a check finds leave no folder and no MLflow run,
    and the run's name free for another recipe; whatever fails later marks the MLflow run as failed (as scheduled, where
    someone stopped it: it can go on), with the reason, and leaves a result that says so.
    """
    recipe = resolved(command.recipe)
    _check_given(command, recipe)
    forecast = check(recipe) or ()
    command = replace(command, recipe=recipe)
    if command.dry_run:
        return _dry_run(recipe, forecast)
    uri = tracking.tracking_uri(recipe.tracking, recipe.storage)
    tracking.check_server(uri)
    with cluster(recipe.scaling):
        plan = plan_for_cluster(recipe.scaling, say)
        _check_tracking(uri)
        say(f"plan: {plan}")
        if not recipe.scaling.in_process:
            wait_for_room(plan, recipe.scaling, say)
        opened = _open(command, job, plan, uri, tags or {})
        say(f"run: {opened.run.name} in {opened.run.folder}")
        with termination_as_interrupt():  # `ray job stop` sends SIGTERM, and kills seconds later
            try:
                work(opened)
            except BaseException as error:
                if removed(opened.run):
                    raise UserError(
                        f"{opened.run.folder}: was removed while the run was going, and its records with it; start it "
                        "again"
                    ) from error
                stopped = isinstance(error, KeyboardInterrupt)
                reason = "stopped by a signal" if stopped else " ".join(str(understood(error)).split())
                try:
                    _close(opened, command, "stopped" if stopped else "failed", reason or type(error).__name__)
                except Exception as another:  # the first error is the one to see
                    say(f"the failure could not be recorded: {another}")
                raise
        return _close(opened, command, "finished", None)


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with what the data set says of itself filled in, after the checks that need no cluster."""
    for name in method_class(recipe.method.name).needs(recipe) & PUBLISHED.keys():
        weights_path(name)
    if recipe.data.path is None:
        check_channels(recipe.data)
        return recipe
    if is_tile_set(recipe):
        manifest = TileSet.open(recipe.data.path, recipe.storage.options).manifest
        # How tiles are drawn is no matter of theirs.
        data = Data(**{**manifest["data"], "path": recipe.data.path, "unpaired": recipe.data.unpaired})
        return recipe.model_copy(update={"data": data, "tiles": Tiles(**manifest["tiles"])})
    data = resolve_data(recipe.data, recipe.storage.options)
    check_channels(data)
    volume_refs(data, recipe.storage.options)
    return recipe.model_copy(update={"data": data})


def _check_given(command: Command, recipe: Recipe) -> None:
    """UserError for a flag that says of finished tiles what they are not, rather than ignoring it."""
    if not is_tile_set(recipe):
        return
    asked, have = (_flat(one.model_dump(mode="json", include={"data", "tiles"})) for one in (command.recipe, recipe))
    for field in _flat({name: command.given[name] for name in ("data", "tiles") if name in command.given}):
        if field != "data.path" and asked.get(field) != have.get(field):
            raise UserError(
                f"{field}: {asked.get(field)!r} does not fit the tiles in {recipe.data.path}, which were cut with "
                f"{have.get(field)!r}; leave it out, or cut the tiles again"
            )


def _dry_run(recipe: Recipe, forecast: Sequence[str]) -> str:
    print(recipe.to_yaml())
    if is_local(recipe.scaling):
        plan = plan_resources(recipe.scaling, os.cpu_count() or 1, torch.cuda.device_count())
    else:
        with cluster(recipe.scaling):
            plan = plan_for_cluster(recipe.scaling, say)
    say(f"plan: {plan}")
    for line in forecast:
        say(line)
    return ""


def _check_tracking(uri: str) -> None:
    """Workers on other machines cannot write to a database file of this one."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    if uri.startswith("sqlite") and len({node["NodeManagerAddress"] for node in alive}) > 1:
        raise UserError(
            "tracking.uri: a cluster of several machines needs an MLflow server that all of them reach; "
            "start one with `mlflow server` and give its http:// address"
        )


def _open(command: Command, job: str, plan: ResourcePlan, uri: str, more: Mapping[str, str]) -> OpenRun:
    recipe = command.recipe
    run = open_run(job, recipe, command.recipe_name)
    tags = {**more, "job": job, "recipe": command.recipe_name, "code": code_version(), "folder": run.folder}
    if recipe.tracking.parent:
        tags["mlflow.parentRunId"] = recipe.tracking.parent
    if run.mlflow_run_id is None:
        try:
            run_id = tracking.start_run(uri, recipe.tracking, run.name, tags)
        except BaseException:
            if not run.continued:
                forget(run)
            raise
        run = record(run, recipe, run_id)
    else:
        tracking.resume_run(uri, run.mlflow_run_id)
        say(f"continuing run {run.name}" + "".join(f"; {change}" for change in run.raised))
        if run.raised:
            run = record(run, recipe, run.mlflow_run_id)
    assert run.mlflow_run_id is not None
    page = tracking.run_page(uri, run.mlflow_run_id)
    opened = OpenRun(recipe, run, plan, uri, Result(tracking_uri=uri), page)
    with opened.log() as log:
        if not run.continued:
            log.params(_flat(recipe.model_dump(mode="json")))
        log.tags({description.TAG: description.begun(run, command)})
        log.text(recipe.to_yaml(), "recipe.yaml")
        log.text(f"{plan}\n", "plan.txt")
    return opened


def _close(opened: OpenRun, command: Command, status: str, reason: str | None) -> str:
    run = opened.run
    location = opened.result.write(run, command, status, reason)
    assert run.mlflow_run_id is not None
    with opened.log() as log:
        log.metrics({f"seconds/{name}": value for name, value in opened.result.timings.items()}, 0)
        log.metrics(_numbers(opened.result.scores), 0)
        fs, path = filesystem(location, run.options)
        log.text(fs.cat_file(path).decode(), "result.json")
        log.tags({description.TAG: description.ended(run, command, status, reason, opened.result)})
    verdict = VERDICTS[status]
    # Whoever stops a job kills it soon after; what an absent server misses is in the spool.
    patience = min(opened.recipe.tracking.patience, 1.0 if status == "stopped" else float("inf"))
    tracking.end_run(
        opened.tracking_uri,
        run.mlflow_run_id,
        verdict,
        reason,
        spool=opened.spool,
        patience=patience,
        report=say,
    )
    say(f"MLflow: {_how_to_open(opened)}")
    return location


def _how_to_open(opened: OpenRun) -> str:
    uri = opened.tracking_uri
    return f"mlflow ui --backend-store-uri {uri}, then open {opened.page}" if uri.startswith("sqlite") else opened.page


def is_tile_set(recipe: Recipe) -> bool:
    """Whether data.path is a folder that make_tiles wrote."""
    if recipe.data.path is None:
        return False
    return exists(join(recipe.data.path, MANIFEST), recipe.storage.options)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, dict) and tree:
        return {key: value for name, part in tree.items() for key, value in _flat(part, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): tree}


def _numbers(scores: dict[str, Any]) -> dict[str, float]:
    """The scores as metrics; not those of each independent unit, which are named by the data and kept for tests."""
    flat = {name.replace(".", "/"): value for name, value in _flat(scores).items() if ".per_unit." not in name}
    return {name: float(value) for name, value in flat.items() if isinstance(value, int | float)}
