"""The MLflow run of a trial: one for each, under the sweep's, however often the trial is started."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metgan_dist import tracking
from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.training.assignment import Assignment

JOB = "tune_loss_weights"
TRIAL_TAG = "trial"
RETRY_SECONDS = 2.0


def child_of(uri: str, parent: str, trial: str) -> str | None:
    """The MLflow run of a trial, None while it has none."""
    found = [run.id for run in tracking.nested_runs(uri, parent) if run.tags.get(TRIAL_TAG) == trial]
    return found[0] if found else None


def open_child(sweep: Assignment, name: str, trial: str, point: Mapping[str, Any], recipe: Recipe) -> str:
    """The trial's MLflow run under that of the sweep called `name`, made now or by an earlier start, with its values.

    Waits `tracking.patience` seconds for an absent server. Raises ConnectionError when it stays away: no mistake in the
    trial's values, so that it may be tried again.
    """
    tags = {"mlflow.parentRunId": sweep.mlflow_run_id, TRIAL_TAG: trial, "folder": sweep.run_folder, "job": JOB}
    deadline, run_id = time.monotonic() + recipe.tracking.patience, None
    while run_id is None:
        try:
            run_id = child_of(sweep.tracking_uri, sweep.mlflow_run_id, trial)
            if run_id is None:
                run_id = tracking.start_run(sweep.tracking_uri, recipe.tracking, f"{name}-{trial}", tags)
            else:
                tracking.resume_run(sweep.tracking_uri, run_id)
        except UserError as error:
            problem, run_id = str(error), None
            time.sleep(RETRY_SECONDS)
        if run_id is None and time.monotonic() > deadline:
            raise ConnectionError(problem)
    with tracking.RunLogger(sweep.tracking_uri, run_id, Path(sweep.spool), recipe.tracking.patience) as log:
        log.params(point)
        log.text(recipe.to_yaml(), "recipe.yaml")
    return run_id
