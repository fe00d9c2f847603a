"""The server of docs/mlflow.md: runs in PostgreSQL, artefacts on S3, users with passwords; killed in mid-run."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
import pytest
from mlflow.exceptions import MlflowException
from moto.server import ThreadedMotoServer
from servers import LONG_ENOUGH, free_port, wait_until, wait_until_up
from user import ROOT, environment, kill_tree, run_here, start, wait_for

from metgan_dist.errors import UserError
from metgan_dist.recipe import Tracking
from metgan_dist.tracking import RunLogger, start_run
from metgan_dist.tracking.server import connect

ADMIN, ANNA, BEN = (
    ("admin", "twelve-characters-or-more"),
    ("anna", "annas-long-password"),
    ("ben", "bens-long-password"),
)

pytestmark = pytest.mark.slow

LOSS = "segmentor/segmentor/segmentation"
STEPS, BATCH, EVERY = 32, 3, 48  # the training's steps, its batch, and the images between two validations

FILES = {"mlflow.env": "PGPASSWORD=", "mlflow-auth.ini": "[mlflow]\ndefault_permission"}
DOCUMENTATION = ROOT / "docs" / "mlflow.md"


def program(name):
    """A program of PostgreSQL's, which Debian keeps out of PATH."""
    found = [shutil.which(name), *sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), reverse=True)]
    return next(filter(None, found), None)


def documented_files():
    """The server's two files as the documentation gives them."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", DOCUMENTATION.read_text(), re.DOTALL | re.MULTILINE)
    return {name: next(b for b in blocks if b.startswith(first)) for name, first in FILES.items()}


class Postgres:
    """PostgreSQL in a folder of its own, as a user of its own when the tests run as root, which it refuses to be."""

    password = "the-databases-password"

    def __init__(self, folder):
        self.data, self.port, self.process = folder / "data", free_port(), None
        self.user = None
        if os.geteuid() == 0:
            self.user = "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
            shutil.chown(folder, self.user)
        secret = folder / "password"
        secret.write_text(self.password)
        login = ["--username", "mlflow", "--auth", "scram-sha-256", "--pwfile", str(secret)]
        self._run([program("initdb"), "-D", str(self.data), "--no-sync", *login], stdout=subprocess.DEVNULL).wait()

    def _run(self, command, **options):
        return subprocess.Popen(command, user=self.user, cwd="/", **options)

    def launch(self):
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-c", "unix_socket_directories=", "-c", "fsync=off"]
        log = (self.data.parent / "postgres.log").open("ab")
        self.process = self._run([program("postgres"), "-D", str(self.data), *place], stdout=log, stderr=log)
        deadline = time.monotonic() + LONG_ENOUGH
        while subprocess.run([program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode != 0:
            assert time.monotonic() < deadline, (self.data.parent / "postgres.log").read_text()
            time.sleep(0.2)

    def create(self, database):
        with self._connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {database}")

    def _connect(self, database):
        import psycopg

        login = {"user": "mlflow", "password": self.password, "dbname": database}
        return psycopg.connect(host="127.0.0.1", port=self.port, autocommit=True, **login)

    def stop(self):
        """As by a crash: connections break, and the next start recovers from the log."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()
            self.process = None


class Server:
    """`mlflow server` with the settings of the documentation, in a process group of its own."""

    def __init__(self, folder, postgres, object_store):
        self.folder, self.port, self.process = folder, free_port(), None
        self.uri = f"http://127.0.0.1:{self.port}"
        for name, text in documented_files().items():
            text = text.replace("127.0.0.1:5432", f"127.0.0.1:{postgres.port}").replace("s3://my-bucket", "s3://lab")
            (folder / name).write_text(text.replace("what-you-typed-above", postgres.password))
        self.environment = environment(**object_store, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")

    def launch(self):
        command = [sys.executable, "-m", "mlflow", "--env-file", str(self.folder / "mlflow.env"), "server"]
        command += ["--app-name", "basic-auth", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, cwd=self.folder, env=self.environment
            )

    def wait(self):
        wait_until_up(f"{self.uri}/health", self.process, self.folder / "server.log")

    def kill(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def object_store():
    """moto's S3 with a bucket `lab`; yields the environment that reaches it."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    endpoint = "http://{}:{}".format(*moto.get_host_and_port())
    keys = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}
    client(endpoint).create_bucket(Bucket="lab")
    yield {**keys, "AWS_ENDPOINT_URL": endpoint}
    moto.stop()


def client(endpoint):
    keys = {"aws_access_key_id": "tests", "aws_secret_access_key": "tests", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=endpoint, **keys)


@pytest.fixture(scope="module")
def postgres():
    if program("initdb") is None or program("postgres") is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is not installed (pip install 'psycopg[binary]')")
    # Not pytest's folder, which nobody but its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="metgan-postgres-"))
    database = Postgres(folder)
    try:
        database.launch()
        database.create("mlflow")
        yield database
    finally:
        database.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(postgres, object_store, tmp_path_factory):
    """The server with two users besides its administrator."""
    pytest.importorskip("flask_wtf", reason="MLflow's authentication is not installed (pip install 'mlflow[auth]')")
    server = Server(tmp_path_factory.mktemp("server"), postgres, object_store)
    try:
        server.launch()
        server.wait()
        with logged_in(ADMIN):
            from mlflow.server.auth.client import AuthServiceClient

            for name, password in (ANNA, BEN):
                AuthServiceClient(server.uri).create_user(name, password)
        yield server
    finally:
        server.kill()


@contextmanager
def logged_in(user):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", user[0])
        patch.setenv("MLFLOW_TRACKING_PASSWORD", user[1])
        yield


def history(uri, run_id, name):
    return [(metric.step, metric.value) for metric in connect(uri).get_metric_history(run_id, name)]


def wait_for_losses(server, process, seconds=400):
    """The id of the run `anna-1` once some of its losses have arrived."""
    deadline, run_id = time.monotonic() + seconds, None
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(1)
        with suppress(MlflowException):  # a server short of processors may take longer than its clients wait
            run_id = run_id or newest_run(server.uri)
            if run_id and history(server.uri, run_id, LOSS):
                return run_id
    raise AssertionError(f"no losses arrived: {wait_for(process)}")


def newest_run(uri):
    experiment = connect(uri).get_experiment_by_name("metgan")
    runs = connect(uri).search_runs([experiment.experiment_id]) if experiment else []
    return runs[0].info.run_id if runs else None


def test_a_job_whose_server_is_killed_and_started_again_loses_nothing(server, object_store, shared_cluster, tmp_path):
    fields = {
        "tracking__uri": server.uri,
        "tracking__run": "anna-1",
        "tracking__patience": LONG_ENOUGH,
        "method__segmentor_max_steps": STEPS,
        "method__segmentor_batch_size": BATCH,
        "training__validate_every": EVERY,
        "training__checkpoint_every": EVERY,
    }
    # The workers' cluster was started without these.
    with logged_in(ANNA):
        job = start("train_segmentor", tmp_path, **fields)
        try:
            run_id = wait_for_losses(server, job)
            server.kill()
            said = ""
            while "does not answer" not in said:  # nor does it end before its server comes back
                said += (line := job.stdout.readline())
                assert line, said
            server.launch()
            said += wait_for(job)
        finally:
            if job.poll() is None:
                kill_tree(job)
        assert job.returncode == 0, said
        server.wait()
        logged = connect(server.uri).get_run(run_id)
        losses = history(server.uri, run_id, LOSS)
    assert "answers again" in said
    assert "MLflow refused" not in said
    assert (logged.info.status, logged.info.run_name) == ("FINISHED", "anna-1")
    assert [step for step, _ in losses] == list(range(BATCH, STEPS * BATCH + 1, BATCH))
    assert [dataset.dataset.name for dataset in logged.inputs.dataset_inputs]
    assert logged.data.params["method.segmentor_max_steps"] == str(STEPS)
    assert logged.data.metrics["segmentor/dice"] >= 0
    kept = {item["Key"] for item in client(object_store["AWS_ENDPOINT_URL"]).list_objects_v2(Bucket="lab")["Contents"]}
    prefix = f"mlflow/{logged.info.experiment_id}/{run_id}/artifacts"
    grids = sorted((tmp_path / "anna-1" / "grids").glob("*.png"))
    assert len(grids) == STEPS * BATCH // EVERY
    for grid in grids:
        body = client(object_store["AWS_ENDPOINT_URL"]).get_object(Bucket="lab", Key=f"{prefix}/grids/{grid.name}")
        assert body["Body"].read() == grid.read_bytes()
    assert {f"{prefix}/{name}" for name in ("recipe.yaml", "plan.txt", "result.json", "tiles/manifest.json")} <= kept
    assert not list(tmp_path.rglob("entries.jsonl"))
    for file in (tmp_path / "anna-1").rglob("*.json"):
        assert ANNA[1] not in file.read_text()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            {"MLFLOW_TRACKING_USERNAME": "anna", "MLFLOW_TRACKING_PASSWORD": "not-annas-password"},
            "the password of anna",
        ),
        ({}, "asks for a user name and password"),
    ],
)
def test_a_wrong_password_or_none_is_one_line_before_any_work(server, tmp_path, monkeypatch, given, why):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    done = run_here("train_segmentor", tmp_path, tracking__uri=server.uri)
    assert done.code == 2, done.out + done.err
    assert done.err.strip().splitlines() == [done.err.strip()]
    assert done.err.startswith(f"error: tracking.uri {server.uri}: ")
    assert why in done.err
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in done.err
    assert done.out == ""
    assert not list(tmp_path.iterdir())


def test_a_user_who_may_only_read_is_told_so(server):
    with logged_in(ANNA):
        start_run(server.uri, Tracking(experiment="annas"), "hers", {})
    with logged_in(BEN), pytest.raises(UserError, match=r"^tracking\.uri .*: does not let ben write .*EDIT"):
        start_run(server.uri, Tracking(experiment="annas"), "his", {})


def test_a_database_that_goes_down_and_comes_back_loses_nothing(server, postgres, tmp_path):
    with logged_in(ANNA):
        run_id = start_run(server.uri, Tracking(experiment="database"), "interrupted", {})
        said = []
        log = RunLogger(server.uri, run_id, tmp_path, LONG_ENOUGH, report=said.append)
        for step in range(90):
            log.metrics({f"loss/{k}": step + k / 4 for k in range(8)}, step)
            if step == 30:
                postgres.stop()
            if step == 60:
                log.png(b"drawn while the database was away", "grids/away.png")
                log.params({"seed": 1})
                wait_until(lambda: any("does not answer" in line for line in said))
                postgres.launch()
            time.sleep(0.05)
        assert log.close()
        for k in range(8):
            assert history(server.uri, run_id, f"loss/{k}") == [(step, step + k / 4) for step in range(90)]
        assert connect(server.uri).get_run(run_id).data.params == {"seed": "1"}
        assert [item.path for item in connect(server.uri).list_artifacts(run_id, "grids")] == ["grids/away.png"]
    assert not any("MLflow refused" in line for line in said), said
    assert not list(tmp_path.rglob("refused.jsonl"))
