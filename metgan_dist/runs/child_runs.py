"""Jobs that an open run starts as runs of their own: beside its folder, under its MLflow run, on its cluster.

A study's rows and a cross-validation's folds are such runs. Each is continued under its name when the run that started
it is, and left alone once it has finished.
"""

from __future__ import annotations

import io
import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import ray

from metgan_dist.cluster.joining import LEAST_DATA_CPUS
from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.errors import understood
from metgan_dist.recipe import Recipe, Scaling
from metgan_dist.runs.children import Order, run_children, termination_as_interrupt
from metgan_dist.runs.command_line import parse_command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun, resolved
from metgan_dist.runs.run_folder import open_run
from metgan_dist.storage import exists, join, one_line, parent
from metgan_dist.trained import read_result


def trainings_at_once(plan: ResourcePlan, scaling: Scaling) -> int:
    """How many trainings laid out as `plan` the cluster takes side by side, each with its tile tasks; at least one."""
    if scaling.in_process:
        return 1
    if scaling.trainings != "auto":
        return scaling.trainings
    by_cpu = plan.cluster_cpus / (plan.workers * plan.cpus_per_worker + LEAST_DATA_CPUS)
    gpus = plan.workers * plan.gpus_per_worker
    # A third of a GPU is 0.333: three of them are meant to fit.
    by_gpu = plan.cluster_gpus / gpus + 1e-6 if gpus else by_cpu
    return max(1, int(min(by_cpu, by_gpu)))


def child_recipe(opened: OpenRun, name: str, recipe: Recipe, at_once: int) -> Recipe:
    """`recipe` as a run <run>-<name> beside the open one and under it in MLflow, one of `at_once` on its cluster."""
    tracked = {
        "uri": opened.tracking_uri,
        "run": f"{opened.run.name}-{name}",
        "parent": opened.run.mlflow_run_id,
    }
    scaled = {"cluster": "auto", "share": opened.recipe.scaling.share / at_once}
    return recipe.model_copy(
        update={
            "tracking": recipe.tracking.model_copy(update=tracked),
            "storage": recipe.storage.model_copy(update={"path": parent(opened.run.folder)}),
            "scaling": recipe.scaling.model_copy(update=scaled),
        }
    )


def folder_of(recipe: Recipe) -> str:
    """Where the run of a child's recipe keeps its files."""
    assert recipe.tracking.run is not None
    return join(recipe.storage.path, recipe.tracking.run)


def result_of(recipe: Recipe) -> dict[str, Any] | None:
    """The `result.json` of a child, None while there is none."""
    return read_result(folder_of(recipe), recipe.storage.options)


def is_finished(job: str, recipe: Recipe) -> bool:
    """Whether a child's run of `job` is done; UserError when its name holds a run of another job or recipe."""
    if not exists(join(folder_of(recipe), "run.json"), recipe.storage.options):
        return False
    open_run(job, resolved(recipe), "child")
    result = result_of(recipe)
    return result is not None and result.get("status") == "finished"


@dataclass(frozen=True)
class ChildJob:
    """A job to be run as a child.

    script: of the job; label: its lines are said under it; recipe: asked for when what it `needs` (children by name)
    has been done, None where nothing is left to do.
    """

    script: Path
    label: str
    recipe: Callable[[], Recipe | None]
    needs: tuple[str, ...] = ()


def child_job(script: Path, label: str, recipe: Recipe, needs: tuple[str, ...] = ()) -> ChildJob:
    """A child whose recipe is known from the beginning."""
    return ChildJob(script, label, partial(_as_it_is, recipe), needs)


def run_jobs(jobs: Mapping[str, ChildJob], at_once: int, *, here: bool) -> dict[str, str]:
    """Run children, `at_once` at a time on this run's cluster, each after those that it needs; why some failed.

    A child that fails stops no other but those that need it. With `here` they run in this process, one after another,
    as those must that train in the job's own.
    """
    if here:
        return _run_all_here(jobs)
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with tempfile.TemporaryDirectory(prefix="metgan-children-") as folder, termination_as_interrupt():

        def command(name: str) -> list[str] | None:
            """The command line of a child, its recipe in a file; None where nothing is left to do."""
            recipe, path = jobs[name].recipe(), Path(folder) / f"{name}.yaml"
            if recipe is None:
                return None
            path.write_text(recipe.to_yaml())
            return [sys.executable, str(jobs[name].script), "--recipe", str(path)]

        commands = {name: partial(command, name) for name in jobs}
        needs = {name: job.needs for name, job in jobs.items()}
        return run_children(
            commands, at_once, environment, lambda name, line: say(f"[{jobs[name].label}] {line}"), needs
        )


def _as_it_is(recipe: Recipe) -> Recipe:
    return recipe


def _run_all_here(jobs: Mapping[str, ChildJob]) -> dict[str, str]:
    order = Order(jobs, {name: job.needs for name, job in jobs.items()})
    while (name := order.next()) is not None:
        job = jobs[name]
        recipe = order.ask(name, job.recipe)
        if recipe is not None and (reason := _run_here(job.script, recipe, job.label)):
            order.failed[name] = reason
    return order.failed


def _run_here(script: Path, recipe: Recipe, label: str) -> str | None:
    """Run the job in `script` in this process; why it failed, None if it did not."""
    job = runpy.run_path(str(script))
    with tempfile.TemporaryDirectory(prefix="metgan-child-") as folder, redirect_stdout(_Labelled(sys.stdout, label)):
        path = Path(folder) / "recipe.yaml"
        path.write_text(recipe.to_yaml())
        try:
            job["work"](parse_command(script.name, job["PURPOSE"], ["--recipe", str(path)]))
        except Exception as error:
            return one_line(understood(error))
    return None


class _Labelled(io.TextIOBase):
    """A stream that passes whole lines on to another, each under a label."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self._stream, self._label, self._begun = stream, label, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            print(f"[{self._label}] {line}", file=self._stream, flush=True)
        return len(text)
