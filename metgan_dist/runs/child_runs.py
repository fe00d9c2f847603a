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
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import ray

from metgan_dist.cluster.joining import LEAST_DATA_CPUS
from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.errors import understood
from metgan_dist.recipe import Recipe, Scaling
from metgan_dist.runs.children import run_children, termination_as_interrupt
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


def run_child_jobs(
    script: Path, recipes: Mapping[str, Recipe], labels: Mapping[str, str], at_once: int
) -> dict[str, str]:
    """Run the job in `script` for each recipe, `at_once` at a time on this run's cluster; reasons of those that failed.

    Lines of a child are said under its label. A child that fails stops no other. Children that train in the job's own
    process run there, one after another.
    """
    if all(recipe.scaling.in_process for recipe in recipes.values()):
        return {name: reason for name, one in recipes.items() if (reason := _run_here(script, one, labels[name]))}
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with tempfile.TemporaryDirectory(prefix="metgan-children-") as folder, termination_as_interrupt():
        commands = {}
        for name, recipe in recipes.items():
            path = Path(folder) / f"{name}.yaml"
            path.write_text(recipe.to_yaml())
            commands[name] = [sys.executable, str(script), "--recipe", str(path)]
        return run_children(commands, at_once, environment, lambda name, line: say(f"[{labels[name]}] {line}"))


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
