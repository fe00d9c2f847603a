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


def submit(head, storage, *options, run="submitted", env=None, **fields):
    """`ray job submit` of the main job."""
    _, _, *flags = command("train_metgan", storage, tracking__run=run, **fields)
    entrypoint = ["--working-dir", str(ROOT), *options, "--", "python", "jobs/train_metgan.py", *flags]
    return ray_job(head, "submit", *entrypoint, env=env)


@pytest.fixture(scope="module")
def submitted(head, segmentors, tmp_path_factory):
    """(storage, output) of a job that was submitted and waited for."""
    storage = tmp_path_factory.mktemp("submitted")
    done = submit(head, storage, **segmentors)
    assert done.returncode == 0, done.stdout + done.stderr
    return storage, done.stdout + done.stderr


def test_submitted_job_succeeds_and_its_log_is_readable(submitted):
    storage, output = submitted
    assert "succeeded" in output.lower()
    assert f"result: {storage}/submitted/result.json" in output
    assert (storage / "submitted" / "result.json").exists()
    assert output.index("plan: ") < output.index("run: submitted") < output.index("metgan  validation at")
    assert "pid=" not in output, "raw output of Ray's processes is in the log"


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


def test_a_stopped_job_is_marked_leaves_nothing_behind_and_goes_on_when_it_is_submitted_again(
    head, segmentors, submitted, tmp_path
):
    made = json.loads((submitted[0] / "submitted" / "result.json").read_text())["artefacts"]
    long = {
        "data__path": made["tiles"],
        **segmentors,
        "training__max_steps": 160,
        "training__checkpoint_every": 32,
        "training__validate_every": 320,
    }
    assert submit(head, tmp_path, "--no-wait", "--submission-id", "mine", run="mine", **long).returncode == 0
    snapshot = tmp_path / "mine/train/metgan/checkpoint_manager_snapshot.json"
    deadline = time.monotonic() + 400
    while not (snapshot.exists() and "images-" in snapshot.read_text()):
        assert time.monotonic() < deadline, ray_job(head, "logs", "mine").stdout
        time.sleep(0.2)
    assert workers_of(head)
    stopped = ray_job(head, "stop", "mine")
    assert "was stopped" in stopped.stdout + stopped.stderr
    result = json.loads((tmp_path / "mine" / "result.json").read_text())
    assert (result["status"], result["reason"]) == ("stopped", "stopped by a signal")
    mlflow_run = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(result["mlflow_run_id"])
    assert mlflow_run.info.status == "KILLED"
    deadline = time.monotonic() + 60
    while workers_of(head) or [state for state in placement_groups(head) if state != "REMOVED"]:
        assert time.monotonic() < deadline, (workers_of(head), placement_groups(head))
        time.sleep(1)

    again = submit(head, tmp_path, run="mine", **long)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "metgan: continuing from " in again.stdout + again.stderr
    assert json.loads((tmp_path / "mine" / "result.json").read_text())["status"] == "finished"
