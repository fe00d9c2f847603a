"""A named run: its folder, and the MLflow run that belongs to it and to no other.

Starting a job again with the same name continues the run. That is safe only while name, folder, recipe and MLflow
run go together, so the folder records all of them and a different recipe under an old name is refused.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe, stored_recipe, stored_tree
from metgan_dist.runs.command_line import DEFAULT_RECIPE
from metgan_dist.storage import absolute, exists, filesystem, join, read_json, write_whole

# What may change between two starts of one run without making it another experiment.
FREE = ("scaling", "scores", "tracking", "storage", "training.max_failures", "training.log_every", "tuning.concurrent")
# What a run may be given more of, by job: it goes on where it ended, with the schedule of its new length.
RAISABLE = {
    "train_metgan": ("training.epochs", "training.max_steps", "training.patience"),
    "train_segmentor": ("method.segmentor_epochs", "method.segmentor_max_steps", "training.patience"),
}


@dataclass(frozen=True)
class Run:
    """Name and folder of a run, and whether it was there before.

    `raised`: what this start gives it more of, in words. `start`: the trained model whose weights it began with
    (training.start_from), as `find_start` gives it; `stages`: those that stand for stages of it (training.stages_from),
    by the stage's name.
    """

    name: str
    folder: str
    job: str
    continued: bool
    mlflow_run_id: str | None
    options: dict[str, Any]
    raised: tuple[str, ...] = ()
    start: dict[str, Any] | None = None
    stages: dict[str, dict[str, Any]] | None = None

    def write(self, name: str, text: str) -> str:
        """Write a text file into the run's folder; returns its URI."""
        uri = join(self.folder, name)
        write_whole(uri, text.encode(), self.options)
        return uri


# Folders below storage.path that are no runs, and what they hold.
NO_RUNS = {"mlartifacts": "MLflow's artefacts", "mlruns": "MLflow's runs"}


def open_run(job: str, recipe: Recipe, recipe_name: str) -> Run:
    """Create the run's folder, or find the one that an earlier start left.

    Raises UserError when the name belongs to another job or another recipe, or storage.path cannot be written.
    """
    name = recipe.tracking.run or _fresh_name(job, recipe_name)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"tracking.run: {name!r}: use letters, digits, '.', '_' and '-' only")
    if name in NO_RUNS:
        raise UserError(f"tracking.run: {name!r}: where {NO_RUNS[name]} lie below storage.path; choose another name")
    options = recipe.storage.options
    storage = absolute(recipe.storage.path)
    folder = join(storage, name)
    known = join(folder, "run.json")
    if not exists(known, options):
        run = Run(name, folder, job, False, None, options)
        try:
            record(run, recipe, None)
        except (OSError, PermissionError) as error:
            raise UserError(f"storage.path: {storage}: cannot be written ({error})") from error
        return run
    written = read_json(known, options, holding=("job", "recipe", "mlflow_run_id"))
    if written["job"] != job:
        raise UserError(f"tracking.run: {name!r} is a run of {written['job']}; choose another name for {job}")
    changes = _differences(_as_of_now(written["recipe"]), recipe.model_dump(mode="json"))
    raised = [field for field in changes if field in RAISABLE.get(job, ()) and _is_more(*changes[field])]
    words = {field: f"{field} was {old!r}, is {new!r}" for field, (old, new) in changes.items()}
    for field, difference in words.items():
        if field not in raised:
            how = ", and can only be raised" if field in RAISABLE.get(job, ()) else ""
            raise UserError(
                f"tracking.run: {name!r} was started with another recipe ({difference}{how}); choose another name"
            )
    if "training.epochs" in raised:
        _check_epochs_count(recipe, *changes["training.epochs"])
    given = tuple(words[field] for field in raised)
    start, stages = written.get("start_from"), written.get("stages_from")
    return Run(name, folder, job, True, written["mlflow_run_id"], options, given, start, stages)


def _check_epochs_count(recipe: Recipe, before: int, now: int) -> None:
    """UserError where more epochs would change nothing."""
    from metgan_dist.training.schedule import epochs_count  # loads torch, which few starts of a job have to wait for

    if not epochs_count(recipe):
        raise UserError(
            f"training.epochs: was {before}, is {now}, but each stage of {recipe.method.name} has a length of its own; "
            "choose another name, and training.stages"
        )


def _fresh_name(job: str, recipe_name: str) -> str:
    # Most runs are trainings, which their recipe tells apart; what other jobs do, such as an evaluation, is not the
    # default recipe's. The tail tells runs apart that start in the same second.
    first = [] if job == "train_metgan" else [job]
    if not first or recipe_name != DEFAULT_RECIPE:
        first.append(Path(recipe_name).stem)
    return f"{'-'.join(first)}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"


def record(run: Run, recipe: Recipe, mlflow_run_id: str | None) -> Run:
    """Tie the folder to its recipe and MLflow run, and to the models that it starts from, where there are any."""
    tree = {"job": run.job, "mlflow_run_id": mlflow_run_id, "recipe": recipe.model_dump(mode="json")}
    if run.start is not None:
        tree["start_from"] = run.start
    if run.stages is not None:
        tree["stages_from"] = run.stages
    run.write("run.json", json.dumps(tree, indent=1))
    return replace(run, mlflow_run_id=mlflow_run_id)


def forget(run: Run) -> None:
    """Take away a folder in which nothing is but the record of its run."""
    fs, path = filesystem(run.folder, run.options)
    fs.rm(path, recursive=True)


def removed(run: Run) -> bool:
    """Whether somebody took the run's folder away; False where storage does not tell."""
    try:
        return not exists(join(run.folder, "run.json"), run.options)
    except Exception:  # what storage answers instead is told by who writes to it next
        return False


def _as_of_now(tree: dict[str, Any]) -> dict[str, Any]:
    """A recipe on record with the fields that it has today: those that came later as they are by default."""
    try:
        return stored_recipe(tree).model_dump(mode="json")
    except ValidationError:  # of another version; what is different is told field by field
        return stored_tree(tree)


def _differences(old: Any, new: Any, field: str = "") -> dict[str, tuple[Any, Any]]:
    """(old, new) of every field that differs and may not do so freely."""
    if field in FREE:
        return {}
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        # Sections, as volumes are: a field that came later, and says nothing, is no difference.
        old, new = _by_place(old), _by_place(new)
    if isinstance(old, dict) and isinstance(new, dict):
        inner = [_differences(old.get(key), new.get(key), f"{field}.{key}".lstrip(".")) for key in {**old, **new}]
        return {name: pair for found in inner for name, pair in found.items()}
    return {} if old == new else {field: (old, new)}


def _by_place(listed: list[Any]) -> Any:
    """A list of sections as a section with their places for names; any other as it is."""
    if not listed or not all(isinstance(one, dict) for one in listed):
        return listed
    return {str(place): one for place, one in enumerate(listed)}


def _is_more(old: int | None, new: int | None) -> bool:
    """Whether a limit was raised; none is the highest."""
    return new is None or (old is not None and new > old)
