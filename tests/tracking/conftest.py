"""An MLflow store in a SQLite file, and a real MLflow server that can be killed and started again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow_store import make_store
from servers import free_port, wait_until_up

from metgan_dist.recipe import Tracking
from metgan_dist.tracking import start_run


class Server:
    """`mlflow server` on one port and one SQLite file, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.store = make_store(folder / "server.db")
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def launch(self) -> None:
        places = ["--backend-store-uri", self.store]
        places += ["--artifacts-destination", str(self.folder / "artifacts")]
        network = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *places, *network],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            )

    def wait(self) -> None:
        wait_until_up(f"{self.uri}/health", self.process, self.folder / "server.log")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def uri(tmp_path):
    return make_store(tmp_path / "mlflow.db")


@pytest.fixture
def run_id(uri):
    return start_run(uri, Tracking(), "a run", {})


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.launch()
    server.wait()
    yield server
    server.kill()
