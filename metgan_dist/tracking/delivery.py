"""From journal entries to MLflow calls. Every call may be repeated: what arrived twice is stored once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from metgan_dist.tracking.journal import Entry
from metgan_dist.tracking.runs import FAILURE_TAG, MAX_TAG_LENGTH, STOPPED_TAG
from metgan_dist.tracking.server import connect, quieten, short_reason

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_PER_BATCH = 1000  # MLflow's limits for one call
PARAMS_PER_BATCH = 100

# Answers that no repetition changes. Everything else (no connection, a proxy's 502, a locked SQLite file, a token that
# is being renewed) is worth another try.
_FINAL = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "MALFORMED_REQUEST",
}
# MLflow's answer to what it cannot read, but also to most errors of its database (no free connection, a transaction
# that another one crossed), which pass.
_DOUBTFUL = "BAD_REQUEST"
DOUBTS = 5


class RefusedError(Exception):
    """MLflow received an entry and will not have it; sending it again is pointless."""


class Delivery:
    """Sends entries to one run. Not for several threads at once."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self._connected: MlflowClient | None = None
        self._doubts = 0

    def send(self, entries: list[Entry], folder: Path) -> None:
        """Deliver entries of one kind; `folder` is the journal's, where the files lie.

        Raises RefusedError when MLflow will never take them, and MLflow's own errors when it may take them later.
        """
        quieten()
        from mlflow.exceptions import MlflowException

        deliver = {
            "metrics": self._metrics,
            "params": self._params,
            "tags": self._tags,
            "file": self._files,
            "dataset": self._datasets,
            "end": self._end,
        }[entries[0]["kind"]]
        try:
            deliver(entries, folder)
        except MlflowException as error:
            self._doubts = self._doubts + 1 if error.error_code == _DOUBTFUL else 0
            if error.error_code in _FINAL or self._doubts >= DOUBTS:
                self._doubts = 0
                raise RefusedError(short_reason(error)) from error
            raise
        except FileNotFoundError as error:
            raise RefusedError(short_reason(error)) from error
        self._doubts = 0

    @property
    def _client(self) -> MlflowClient:
        # Made on first use, by the sending thread, because it may wait.
        if self._connected is None:
            self._connected = connect(self.uri)
        return self._connected

    def _metrics(self, entries: list[Entry], folder: Path) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, entry["time"], entry["step"])
            for entry in entries
            for name, value in entry["values"].items()
        ]
        for first in range(0, len(metrics), METRICS_PER_BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[first : first + METRICS_PER_BATCH], synchronous=True)

    def _params(self, entries: list[Entry], folder: Path) -> None:
        """MLflow's parameters are written once; a continued run's changed one becomes the tag ``changed.<name>``."""
        from mlflow.entities import Param, RunTag

        wanted = {name: value for entry in entries for name, value in entry["values"].items()}
        known = self._client.get_run(self.run_id).data.params
        fresh = [Param(name, value) for name, value in wanted.items() if name not in known]
        changed = [
            RunTag(f"changed.{name}", value) for name, value in wanted.items() if known.get(name, value) != value
        ]
        for first in range(0, len(fresh), PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, params=fresh[first : first + PARAMS_PER_BATCH], synchronous=True)
        for first in range(0, len(changed), PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, tags=changed[first : first + PARAMS_PER_BATCH], synchronous=True)

    def _tags(self, entries: list[Entry], folder: Path) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, value) for entry in entries for name, value in entry["values"].items()]
        self._client.log_batch(self.run_id, tags=tags, synchronous=True)

    def _files(self, entries: list[Entry], folder: Path) -> None:
        for entry in entries:
            self._client.log_artifact(self.run_id, str(folder / entry["path"]), entry["folder"] or None)

    def _datasets(self, entries: list[Entry], folder: Path) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for entry in entries:
            dataset = Dataset(
                name=entry["name"],
                digest=entry["digest"],
                source_type="metgan_tiles",
                source=json.dumps({"uri": entry["uri"]}),
                profile=json.dumps({"num_rows": entry["rows"]}),
            )
            inputs.append(DatasetInput(dataset, tags=[InputTag("mlflow.data.context", entry["context"])]))
        self._client.log_inputs(self.run_id, datasets=inputs)

    def _end(self, entries: list[Entry], folder: Path) -> None:
        last = entries[-1]
        if last["reason"]:
            tag = FAILURE_TAG if last["status"] == "FAILED" else STOPPED_TAG
            self._client.set_tag(self.run_id, tag, last["reason"][:MAX_TAG_LENGTH])
        self._client.set_terminated(self.run_id, last["status"], end_time=last["time"])
