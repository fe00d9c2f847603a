"""An MLflow store in a SQLite file, and a real MLflow server that can be killed and started again."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from metgan_dist.recipe import Tracking
from metgan_dist.tracking import check_server, start_run


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """`mlflow server` on one port and one SQLite file, in a process group of its own."""

    def __init__(self, folder: Path, database: Path) -> None:
        shutil.copyfile(database, folder / "server.db")
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def launch(self) -> None:
        places = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
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
        deadline = time.monotonic() + 120
        while True:
            try:
                with urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
                time.sleep(0.2)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow's tables in a SQLite file, created once because that takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    check_server(f"sqlite:///{path}")
    return path


@pytest.fixture
def uri(empty_database, tmp_path):
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def run_id(uri):
    return start_run(uri, Tracking(), "a run", {})


@pytest.fixture(scope="session")
def server(empty_database, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"), empty_database)
    server.launch()
    server.wait()
    yield server
    server.kill()
