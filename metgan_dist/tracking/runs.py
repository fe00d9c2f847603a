"""The life of an MLflow run as the driver sees it: created, found again, continued."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from metgan_dist.errors import UserError
from metgan_dist.recipe import Tracking
from metgan_dist.tracking.redaction import redact, redact_value
from metgan_dist.tracking.server import connect, quieten, short_reason, unusable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient
    from mlflow.entities import Experiment

MAX_TAG_LENGTH = 8000
FAILURE_TAG, STOPPED_TAG = "failure", "stopped"
# Without these an experiment, and a page, is shown as one of a language model.
KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"
AS_TRAINING = "workflowType=machine_learning"


def start_run(uri: str, tracking: Tracking, name: str, tags: Mapping[str, str]) -> str:
    """Create a run called `name` in `tracking.experiment` and return its id.

    A new experiment keeps its artefacts in `tracking.artifacts`; without that, beside a SQLite file in ``mlartifacts``,
    or where the server decides. An existing experiment keeps the place that it has.

    Raises UserError when the server does not answer or the experiment was deleted.
    """
    with reporting(uri):
        client = connect(uri)
        experiment = _experiment(client, uri, tracking)
        _check_parent(client, uri, tracking.parent)
        described = {"mlflow.user": _user(), "mlflow.source.name": Path(sys.argv[0]).name}
        described |= {key: redact_value(key, value)[:MAX_TAG_LENGTH] for key, value in tags.items()}
        run = client.create_run(experiment.experiment_id, run_name=name, tags=described)
        return str(run.info.run_id)


def _check_parent(client: MlflowClient, uri: str, parent: str | None) -> None:
    """UserError for a run to be shown under that the store does not have."""
    from mlflow.exceptions import MlflowException

    if not parent:
        return
    try:
        client.get_run(parent)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UserError(f"tracking.parent: {redact(uri)} has no run {parent!r}; give the id of one, or none") from error


def find_run(uri: str, tracking: Tracking, name: str) -> str | None:
    """The id of the latest run called `name` in `tracking.experiment`, or None. Deleted runs do not count."""
    quote = '"' if "'" in name else "'"
    if quote in name:
        raise UserError(f"tracking.run {name}: a run's name may hold ' or \", not both")
    with reporting(uri):
        client = connect(uri)
        experiment = client.get_experiment_by_name(tracking.experiment)
        if experiment is None:
            return None
        runs = client.search_runs(
            [experiment.experiment_id],
            filter_string=f"attributes.run_name = {quote}{name}{quote}",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        return str(runs[0].info.run_id) if runs else None


def resume_run(uri: str, run_id: str) -> None:
    """Set a run that ended, failed or was stopped to running again; the tag that says why goes.

    Raises UserError when there is no such run, or it was deleted.
    """
    with reporting(uri):
        client = connect(uri)
        run = client.get_run(run_id)
        if run.info.lifecycle_stage == "deleted":
            raise UserError(f"tracking.run {run_id}: the run was deleted in MLflow; restore it or use another name")
        client.update_run(run_id, status="RUNNING")
        for tag in {FAILURE_TAG, STOPPED_TAG} & run.data.tags.keys():
            client.delete_tag(run_id, tag)


def run_page(uri: str, run_id: str) -> str:
    """The address of a run's page; where runs are in a database, that of `mlflow ui` on this machine."""
    with reporting(uri):
        experiment = connect(uri).get_run(run_id).info.experiment_id
    server = redact(uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{server}/#/experiments/{experiment}/runs/{run_id}?{AS_TRAINING}"


def run_tags(uri: str, run_id: str) -> dict[str, str]:
    """The tags of a run, among them ``folder``, where it keeps its files; UserError when there is no such run."""
    with reporting(uri):
        return dict(connect(uri).get_run(run_id).data.tags)


def _experiment(client: MlflowClient, uri: str, tracking: Tracking) -> Experiment:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(tracking.experiment)
    if experiment is None:
        try:
            client.create_experiment(tracking.experiment, artifact_location=_artifacts(uri, tracking))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another job may have created it a moment ago
                raise
        experiment = client.get_experiment_by_name(tracking.experiment)
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"tracking.experiment {tracking.experiment}: the experiment was deleted in MLflow; "
            f"restore it (mlflow experiments restore --experiment-id {experiment.experiment_id}) or choose another name"
        )
    if KIND_TAG not in experiment.tags:
        client.set_experiment_tag(experiment.experiment_id, KIND_TAG, KIND)
    return experiment


def _artifacts(uri: str, tracking: Tracking) -> str | None:
    if tracking.artifacts:
        return (
            tracking.artifacts if "://" in tracking.artifacts else str(Path(tracking.artifacts).expanduser().resolve())
        )
    if uri.startswith("sqlite:///"):
        return str(Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts")
    return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user id has no name
        return "unknown"


@contextmanager
def reporting(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into one line for the user."""
    quieten()
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise UserError(f"tracking.uri {redact(uri)}: {short_reason(error)}") from error
        raise UserError(unusable(uri, error)) from error
