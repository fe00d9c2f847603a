"""What MLflow knows of runs and of the data sets that went into them and came out of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metgan_dist.tracking.logger import MAX_DIGEST_LENGTH
from metgan_dist.tracking.runs import reporting
from metgan_dist.tracking.server import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

CONTEXT_TAG, PARENT_TAG = "mlflow.data.context", "mlflow.parentRunId"
PAGE = 1000


@dataclass(frozen=True)
class LoggedDataset:
    """A data set as `RunLogger.dataset` logged it: `digest` is the first 36 characters of its manifest's SHA-256."""

    name: str
    digest: str
    context: str
    uri: str


@dataclass(frozen=True)
class LoggedRun:
    """A run as MLflow has it; `deleted` ones are kept by MLflow until they are purged."""

    id: str
    name: str
    status: str
    deleted: bool
    tags: Mapping[str, str]
    datasets: tuple[LoggedDataset, ...]

    @property
    def folder(self) -> str | None:
        """Where the run keeps its files, as it said at its start."""
        return self.tags.get("folder")

    @property
    def parent(self) -> str | None:
        """Id of the run that MLflow shows it under."""
        return self.tags.get(PARENT_TAG)

    @property
    def job(self) -> str:
        """The job that it is a run of."""
        return self.tags.get("job", "unknown job")


def logged_run(uri: str, run_id: str) -> LoggedRun | None:
    """A run by its id, deleted or not; None where the server has none. UserError when it does not answer."""
    with reporting(uri):
        from mlflow.exceptions import MlflowException

        try:
            return _described(connect(uri).get_run(run_id))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # the latter: no id at all
                return None
            raise


def runs_with_dataset(uri: str, digest: str, context: str | None = None) -> list[LoggedRun]:
    """Runs of all experiments that logged a data set of this digest, in any context or in one, oldest first.

    `digest` is a manifest's SHA-256, whole or its first 36 characters. Deleted runs are among them.
    """
    known = digest[:MAX_DIGEST_LENGTH]
    found = _search(uri, f"dataset.digest = '{known}'")
    return [run for run in found if any(d.digest == known and context in (None, d.context) for d in run.datasets)]


def nested_runs(uri: str, run_id: str) -> list[LoggedRun]:
    """Runs that MLflow shows under another, oldest first; deleted ones are left out."""
    return [run for run in _search(uri, f"tags.`{PARENT_TAG}` = '{run_id}'") if not run.deleted]


def _search(uri: str, query: str) -> list[LoggedRun]:
    with reporting(uri):
        from mlflow.entities import ViewType

        client = connect(uri)
        places = list(_experiments(client))
        runs: list[Any] = []
        token = None
        while places:
            page = client.search_runs(
                places, query, ViewType.ALL, PAGE, order_by=["attributes.start_time ASC"], page_token=token
            )
            runs += page
            token = page.token
            if not token:
                break
        return [_described(run) for run in runs]


def _experiments(client: MlflowClient) -> Iterator[str]:
    from mlflow.entities import ViewType

    token = None
    while True:
        page = client.search_experiments(ViewType.ALL, max_results=PAGE, page_token=token)
        yield from (experiment.experiment_id for experiment in page)
        token = page.token
        if not token:
            return


def _described(run: Run) -> LoggedRun:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return LoggedRun(
        id=str(run.info.run_id),
        name=str(run.info.run_name),
        status=str(run.info.status),
        deleted=run.info.lifecycle_stage == "deleted",
        tags=dict(run.data.tags),
        datasets=tuple(_dataset(entry) for entry in inputs),
    )


def _dataset(entry: DatasetInput) -> LoggedDataset:
    context = next((tag.value for tag in entry.tags if tag.key == CONTEXT_TAG), "")
    try:
        uri = str(json.loads(entry.dataset.source).get("uri", ""))
    except (ValueError, AttributeError):  # a data set that others logged
        uri = ""
    return LoggedDataset(entry.dataset.name, entry.dataset.digest, context, uri)
