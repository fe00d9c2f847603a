"""`ray job submit` to a cluster with token authentication, as the README says it."""

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from user import ROOT, TINY, environment, kill_tree


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head node that asks for a token; yields its address and the environment that holds the token."""
    token = tmp_path_factory.mktemp("secret") / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    bin_folder = str(Path(sys.executable).parent)
    env = environment(
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), PATH=f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    )
    port = free_port()
    process = subprocess.Popen(
        [
            f"{bin_folder}/ray", "start", "--head", "--block", "--port", str(free_port()), "--num-cpus", "3",
            "--node-ip-address", "127.0.0.1", "--dashboard-host", "127.0.0.1", "--dashboard-port", str(port),
            "--disable-usage-stats",
            # Another cluster on this machine holds the default ports; without its own, the job agent stays away.
            "--dashboard-agent-listen-port", str(free_port()), "--dashboard-agent-grpc-port", str(free_port()),
            "--metrics-export-port", str(free_port()), "--ray-client-server-port", str(free_port()),
        ],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5)
        except urllib.error.HTTPError:
            break
        except OSError:
            assert time.monotonic() < deadline, "the head node did not come up"
            time.sleep(0.5)
        else:
            break
    yield address, env
    kill_tree(process)


def submit(address, env, storage):
    """`ray job submit` of the main job; tried again while the head's job agent is still starting."""
    fields = {**TINY, "storage.path": str(storage), "tracking.run": "submitted"}
    flags = [part for name, value in fields.items() for part in (f"--{name}", value)]
    command = ["ray", "job", "submit", "--address", address, "--working-dir", str(ROOT), "--"]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            [*command, "python", "jobs/train_metgan.py", *flags], env=env, capture_output=True, text=True, timeout=500
        )
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(3)


def test_submitted_job_succeeds(head, tmp_path):
    address, env = head
    done = submit(address, env, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout.lower() + done.stderr.lower()
    assert f"result: {tmp_path}/submitted/result.json" in done.stdout + done.stderr
    assert (tmp_path / "submitted" / "result.json").exists()


def test_without_the_token_nothing_is_submitted(head, tmp_path):
    address, env = head
    bare = {name: value for name, value in env.items() if not name.startswith("RAY_AUTH")}
    done = submit(address, bare, tmp_path)
    assert done.returncode != 0
    assert not (tmp_path / "submitted").exists()
