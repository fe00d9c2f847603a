"""A named run: its folder, and the MLflow run that belongs to it and to no other.

Starting a job again with the same name continues the run. That is safe only while name, folder, recipe and MLflow
run go together, so the folder records all of them and a different recipe under an old name is refused.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.storage import exists, filesystem, join, read_bytes, write_whole

# What may change between two starts of one run without making it another experiment.
FREE = ("scaling", "scores", "tracking", "storage", "training.max_failures", "training.log_every", "tuning.concurrent")


@dataclass(frozen=True)
class Run:
    """Name and folder of a run, and whether it was there before."""

    name: str
    folder: str
    job: str
    continued: bool
    mlflow_run_id: str | None
    options: dict[str, Any]

    def write(self, name: str, text: str) -> str:
        """Write a text file into the run's folder; returns its URI."""
        uri = join(self.folder, name)
        write_whole(uri, text.encode(), self.options)
        return uri


def open_run(job: str, recipe: Recipe, recipe_name: str) -> Run:
    """Create the run's folder, or find the one that an earlier start left.

    Raises UserError when the name belongs to another job or another recipe, or storage.path cannot be written.
    """
    name = recipe.tracking.run or _fresh_name(recipe_name)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"tracking.run: {name!r}: use letters, digits, '.', '_' and '-' only")
    options = recipe.storage.options
    storage = recipe.storage.path if "://" in recipe.storage.path else str(Path(recipe.storage.path).absolute())
    folder = join(storage, name)
    known = join(folder, "run.json")
    if not exists(known, options):
        run = Run(name, folder, job, False, None, options)
        try:
            record(run, recipe, None)
        except (OSError, PermissionError) as error:
            raise UserError(f"storage.path: {storage}: cannot be written ({error})") from error
        return run
    written = json.loads(read_bytes(known, options))
    if written["job"] != job:
        raise UserError(f"tracking.run: {name!r} is a run of {written['job']}; choose another name for {job}")
    difference = _first_difference(written["recipe"], recipe.model_dump(mode="json"))
    if difference:
        raise UserError(f"tracking.run: {name!r} was started with another recipe ({difference}); choose another name")
    return Run(name, folder, job, True, written["mlflow_run_id"], options)


def _fresh_name(recipe_name: str) -> str:
    # The tail keeps apart runs that start in the same second.
    return f"{Path(recipe_name).stem}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"


def record(run: Run, recipe: Recipe, mlflow_run_id: str | None) -> Run:
    """Tie the folder to its recipe and MLflow run."""
    tree = {"job": run.job, "mlflow_run_id": mlflow_run_id, "recipe": recipe.model_dump(mode="json")}
    run.write("run.json", json.dumps(tree, indent=1))
    return Run(run.name, run.folder, run.job, run.continued, mlflow_run_id, run.options)


def forget(run: Run) -> None:
    """Take away a folder in which nothing is but the record of its run."""
    fs, path = filesystem(run.folder, run.options)
    fs.rm(path, recursive=True)


def _first_difference(old: Any, new: Any, field: str = "") -> str | None:
    if field in FREE:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            found = _first_difference(old.get(key), new.get(key), f"{field}.{key}".lstrip("."))
            if found:
                return found
        return None
    return None if old == new else f"{field} was {old!r}, is {new!r}"
