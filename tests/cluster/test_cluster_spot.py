"""A node that is taken away after a notice: the training has saved, and goes on with the worker that is left."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ray.cluster_utils import Cluster
from servers import LONG_ENOUGH
from user import command, environment, kill_tree

from metgan_dist.cluster.joining import OWN_TRAININGS

pytestmark = pytest.mark.slow

PATIENCE = 500  # seconds

FIELDS = {
    "scaling__workers": 2,
    "scaling__min_workers": 1,
    "scaling__cpus_per_worker": 1.5,
    "training__batch_size": 2,
    "training__epochs": 20,
    "training__max_steps": 50,
    # Only the notice makes a checkpoint before the end.
    "training__checkpoint_every": 100_000,
    "training__validate_every": 100_000,
    "tracking__run": "mine",
}


@pytest.fixture
def two_nodes(monkeypatch):
    """A cluster of two nodes, each with room for one worker; yields it and its second node."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    for name in OWN_TRAININGS:
        monkeypatch.delenv(name, raising=False)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    second = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes(LONG_ENOUGH)
    yield cluster, second
    with suppress(Exception):
        cluster.shutdown()


class Job:
    """A job that is running, and what it has said."""

    def __init__(self, storage, address, segmentors):
        self.process = subprocess.Popen(
            command("train_metgan", storage, **FIELDS, **segmentors),
            env={**environment(), "RAY_ADDRESS": address, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def output(self):
        return "".join(self.lines)

    def wait_until(self, happened):
        """Until `happened()`, with the job still running."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.3)

    def finish(self):
        self.process.wait(PATIENCE)
        self.reader.join(10)
        return self.output


def in_training(storage):
    """Whether the method, past the segmentors, has logged a step."""
    known = Path(storage) / "mine" / "run.json"
    if not known.exists() or not (run_id := json.loads(known.read_text())["mlflow_run_id"]):
        return False
    metrics = MlflowClient(f"sqlite:///{storage}/mlflow.db").get_run(run_id).data.metrics
    return "images_per_second" in metrics


def test_a_training_saves_on_notice_and_goes_on_with_what_is_left(tmp_path, segmentors, two_nodes):
    cluster, second = two_nodes
    job = Job(tmp_path, cluster.address, segmentors)
    try:
        job.wait_until(lambda: in_training(tmp_path))
        subprocess.run(
            [
                str(Path(sys.executable).parent / "ray"), "drain-node", "--address", cluster.address,
                "--node-id", second.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION",
                "--reason-message", "test", "--deadline-remaining-seconds", "120",
            ],
            env=dict(os.environ), check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        job.wait_until(lambda: list((tmp_path / "mine/train/metgan").glob("images-*/meta.json")))
        assert "a machine is taken away, with 1 of the workers: saving" in job.output
        # Ray lists a checkpoint here a moment after the files are complete.
        listed = tmp_path / "mine/train/metgan/checkpoint_manager_snapshot.json"
        job.wait_until(lambda: listed.exists() and "images-" in listed.read_text())
        cluster.remove_node(second, allow_graceful=False)
        output = job.finish()
    finally:
        with suppress(Exception):
            kill_tree(job.process)
    assert job.process.returncode == 0, output
    assert "metgan: continuing from " in output
    assert "[state-dump]" not in output
    result = json.loads((tmp_path / "mine" / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["artefacts"]["images"] == 200
