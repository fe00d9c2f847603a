"""`ray job submit` to a cluster with token authentication, as the README says it, and a stop."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from servers import free_port, wait_until, wait_until_up
from user import ROOT, command, environment, kill_tree

pytestmark = pytest.mark.slow


@dataclass
class Head:
    """A head node that asks for a token: where it answers, the environment that holds the token, its process."""

    dashboard: str
    gcs: str
    env: dict
    pid: int

    @property
    def without_token(self):
        return {name: value for name, value in self.env.items() if not name.startswith("RAY_AUTH")}

    def ask(self, path, post=None, with_token=True):
        """What the dashboard answers to a GET, or to a `post`, as JSON."""
        data = None if post is None else json.dumps(post).encode()
        request = urllib.request.Request(self.dashboard + path, data, {"Content-Type": "application/json"})
        if with_token:
            request.add_header("Authorization", f"Bearer {Path(self.env['RAY_AUTH_TOKEN_PATH']).read_text()}")
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Started as cluster.yaml does it, on this machine."""
    token = tmp_path_factory.mktemp("secret") / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    bin_folder = str(Path(sys.executable).parent)
    env = environment(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token),
        RAY_JOB_STOP_WAIT_TIME_S="60",
        PATH=f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
    )
    port, gcs_port = free_port(), free_port()
    # Ray's job agent finds its own cluster by a file in this folder, which another cluster would write over. Short,
    # for the sockets in it.
    place = tempfile.mkdtemp(prefix="ray-")
    process = subprocess.Popen(
        [
            f"{bin_folder}/ray", "start", "--head", "--block", "--port", str(gcs_port), "--num-cpus", "3",
            "--node-ip-address", "127.0.0.1", "--dashboard-host", "127.0.0.1", "--dashboard-port", str(port),
            "--disable-usage-stats", "--temp-dir", place,
            # Another cluster on this machine holds the default ports; without its own, the job agent stays away.
            "--dashboard-agent-listen-port", str(free_port()), "--dashboard-agent-grpc-port", str(free_port()),
            "--metrics-export-port", str(free_port()), "--ray-client-server-port", str(free_port()),
        ],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    wait_until_up(f"{address}/api/version", process)
    yield Head(address, f"127.0.0.1:{gcs_port}", env, process.pid)
    kill_tree(process)
    shutil.rmtree(place, ignore_errors=True)


def ray_job(head, *arguments):
    """`ray job ...`; tried again while the head's job agent is still starting."""
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            ["ray", "job", arguments[0], "--address", head.dashboard, *arguments[1:]],
            env=head.env,
            capture_output=True,
            text=True,
            timeout=500,
        )
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(3)


def submit(head, storage, *options, **fields):
    """`ray job submit` of the main job."""
    _, _, *flags = command("train_metgan", storage, tracking__run="submitted", **fields)
    entrypoint = ["--working-dir", str(ROOT), *options, "--", "python", "jobs/train_metgan.py", *flags]
    return ray_job(head, "submit", *entrypoint)


def test_without_the_token_nothing_is_submitted(head):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        head.ask("/api/jobs/", post={"entrypoint": "true", "submission_id": "hers"}, with_token=False)
    assert "hers" not in [job["submission_id"] for job in head.ask("/api/jobs/")]


def test_a_job_without_the_token_says_so_in_one_line(head, tmp_path):
    env = {**head.without_token, "RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": head.gcs}
    done = subprocess.run(command("train_metgan", tmp_path), env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: scaling.cluster: {head.gcs}: the cluster's token is missing")


def placement_groups(head):
    """States of the cluster's placement groups."""
    return [group["state"] for group in head.ask("/api/v0/placement_groups")["data"]["result"]["result"]]


def workers_of(head):
    """Processes on the node that still belong to a job."""
    lines = []
    for child in psutil.Process(head.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # as a process that has just ended is, too
            lines.append(" ".join(child.cmdline()))
    return [line for line in lines if "RayTrainWorker" in line or "train_metgan" in line or "TrainController" in line]


@pytest.fixture(scope="module")
def stopped(head, segmentors, tmp_path_factory):
    """(storage, fields, Ray's word for its state) of a job that was stopped after its first checkpoint."""
    storage = tmp_path_factory.mktemp("submitted")
    fields = {**segmentors, "training__max_steps": 60, "training__checkpoint_every": 16}
    fields |= {"training__validate_every": 120}
    begun = submit(head, storage, "--no-wait", "--submission-id", "mine", **fields)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    snapshot = storage / "submitted/train/metgan/checkpoint_manager_snapshot.json"
    wait_until(
        lambda: snapshot.exists() and "images-" in snapshot.read_text(),
        lambda: head.ask("/api/jobs/mine/logs")["logs"],
    )
    assert workers_of(head)
    head.ask("/api/jobs/mine/stop", post={})  # as `ray job stop`, which would take seconds to start
    wait_until(lambda: state_of(head) != "RUNNING", lambda: head.ask("/api/jobs/mine/logs")["logs"])
    return storage, fields, state_of(head)


def state_of(head):
    return head.ask("/api/jobs/mine")["status"]


def test_a_stopped_job_is_marked_and_leaves_nothing_behind(head, stopped):
    storage, _, state = stopped
    assert state == "STOPPED"
    result = json.loads((storage / "submitted" / "result.json").read_text())
    assert (result["status"], result["reason"]) == ("stopped", "stopped by a signal")
    mlflow_run = MlflowClient(f"sqlite:///{storage}/mlflow.db").get_run(result["mlflow_run_id"])
    assert mlflow_run.info.status == "SCHEDULED"
    wait_until(
        lambda: not workers_of(head) and set(placement_groups(head)) <= {"REMOVED"},
        lambda: f"{workers_of(head)} {placement_groups(head)}",
    )


def test_submitted_again_it_goes_on_and_succeeds_with_a_log_that_is_readable(head, stopped):
    storage, fields, _ = stopped
    done = submit(head, storage, **fields)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "succeeded" in output.lower()
    assert f"result: {storage}/submitted/result.json" in output
    assert json.loads((storage / "submitted" / "result.json").read_text())["status"] == "finished"
    assert output.index("plan: ") < output.index("run: submitted") < output.index("metgan: continuing from ")
    assert "metgan  validation at" in output
    assert "pid=" not in output, "raw output of Ray's processes is in the log"
