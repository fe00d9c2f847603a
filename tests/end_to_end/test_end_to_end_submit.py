"""`ray job submit` to a cluster with token authentication, as the README says it, and `ray job stop`."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from servers import free_port, wait_until_up
from user import ROOT, command, environment, kill_tree


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


def ray_job(head, *arguments, env=None):
    """`ray job ...`; tried again while the head's job agent is still starting."""
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            ["ray", "job", arguments[0], "--address", head.dashboard, *arguments[1:]],
            env=env or head.env,
            capture_output=True,
            text=True,
            timeout=500,
        )
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(3)


def submit(head, storage, *options, env=None, **fields):
    """`ray job submit` of the main job."""
    _, _, *flags = command("train_metgan", storage, tracking__run="submitted", **fields)
    entrypoint = ["--working-dir", str(ROOT), *options, "--", "python", "jobs/train_metgan.py", *flags]
    return ray_job(head, "submit", *entrypoint, env=env)


def test_without_the_token_nothing_is_submitted(head, tmp_path):
    done = submit(head, tmp_path, env=head.without_token)
    assert done.returncode != 0
    assert not (tmp_path / "submitted").exists()


def test_a_job_without_the_token_says_so_in_one_line(head, tmp_path):
    env = {**head.without_token, "RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": head.gcs}
    done = subprocess.run(command("train_metgan", tmp_path), env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: scaling.cluster: {head.gcs}: the cluster's token is missing")


def placement_groups(head):
    """States of the cluster's placement groups."""
    script = "import ray; ray.init(log_to_driver=False); import json; from ray.util import placement_group_table as t; "
    script += "print(json.dumps([group['state'] for group in t().values()]))"
    env = {**head.env, "RAY_ADDRESS": head.gcs}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def workers_of(head):
    """Processes on the node that still belong to a job."""
    lines = [" ".join(child.cmdline()) for child in psutil.Process(head.pid).children(recursive=True)]
    return [line for line in lines if "RayTrainWorker" in line or "train_metgan" in line or "TrainController" in line]


@pytest.fixture(scope="module")
def stopped(head, segmentors, tmp_path_factory):
    """(storage, fields, what `ray job stop` said) of a job that was stopped after its first checkpoint."""
    storage = tmp_path_factory.mktemp("submitted")
    fields = {**segmentors, "training__max_steps": 160, "training__checkpoint_every": 32}
    fields |= {"training__validate_every": 320}
    begun = submit(head, storage, "--no-wait", "--submission-id", "mine", **fields)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    snapshot = storage / "submitted/train/metgan/checkpoint_manager_snapshot.json"
    deadline = time.monotonic() + 400
    while not (snapshot.exists() and "images-" in snapshot.read_text()):
        assert time.monotonic() < deadline, ray_job(head, "logs", "mine").stdout
        time.sleep(0.2)
    assert workers_of(head)
    done = ray_job(head, "stop", "mine")
    return storage, fields, done.stdout + done.stderr


def test_a_stopped_job_is_marked_and_leaves_nothing_behind(head, stopped):
    storage, _, said = stopped
    assert "was stopped" in said
    result = json.loads((storage / "submitted" / "result.json").read_text())
    assert (result["status"], result["reason"]) == ("stopped", "stopped by a signal")
    mlflow_run = MlflowClient(f"sqlite:///{storage}/mlflow.db").get_run(result["mlflow_run_id"])
    assert mlflow_run.info.status == "KILLED"
    deadline = time.monotonic() + 60
    while workers_of(head) or [state for state in placement_groups(head) if state != "REMOVED"]:
        assert time.monotonic() < deadline, (workers_of(head), placement_groups(head))
        time.sleep(1)


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
