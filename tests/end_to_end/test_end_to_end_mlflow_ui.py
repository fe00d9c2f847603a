"""The MLflow UI in a real browser: children, plots, curves and grids are on the page, or are said to be missing."""

import io
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from servers import free_port, wait_until_up
from user import ROOT, environment, run_script

from metgan_dist.recipe import Tracking
from metgan_dist.tracking import RunLogger, check_server, end_run, start_run

pytestmark = pytest.mark.slow

CHILDREN = 12  # more than the page of a run shows at first


def png(edge=64):
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (edge, edge), "uint8")).save(picture, "PNG")
    return picture.getvalue()


@pytest.fixture(scope="module")
def ui(tmp_path_factory):
    """`mlflow ui` on a sweep, one whose plot is damaged, and a lonely run; yields its address."""
    pytest.importorskip("playwright", reason="Playwright is not installed (pip install playwright)")
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    folder = tmp_path_factory.mktemp("ui")
    store = f"sqlite:///{folder}/mlflow.db"
    check_server(store)

    def log(name, parent=None, pictures=(), steps=0):
        run_id = start_run(store, Tracking(), name, {"mlflow.parentRunId": parent} if parent else {})
        with RunLogger(store, run_id, folder / "spool") as logger:
            for step in range(steps):
                logger.metrics({"generators/pair": 1 / (1 + step)}, step)
            for path, picture in pictures:
                logger.png(picture, path)
        end_run(store, run_id, "FINISHED", spool=folder / "spool")
        return run_id

    sweep = log("sweep", pictures=[("plots/pareto_front.png", png())])
    for number in range(CHILDREN):
        log(f"trial-{number}", sweep, [("grids/test.png", png())] if number == 3 else [], steps=20 * (number == 3))
    damaged = log("damaged", pictures=[("plots/pareto_front.png", b"no picture")])
    log("damaged-trial", damaged, [("grids/test.png", png())], steps=5)
    log("lonely")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, "--port", str(port)]
    server_environment = environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true")
    with (folder / "ui.log").open("wb") as output:
        process = subprocess.Popen(
            [*command, "--workers", "1"],
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=folder,
            env=server_environment,
        )
    try:
        wait_until_up(f"http://127.0.0.1:{port}/health", process, folder / "ui.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def look(ui, folder, name, seconds=120):
    given = ["--uri", ui, "--run", name, "--folder", str(folder), "--seconds", str(seconds)]
    return run_script(ROOT / "benchmarks" / "mlflow_pages.py", *given)


def test_a_sweep_with_its_children_plots_curves_and_grids_is_on_the_page(ui, tmp_path):
    done = look(ui, tmp_path, "sweep")
    assert done.code == 0, done.out + done.err
    assert done.out.strip().splitlines()[-1] == f"sweep: {CHILDREN} children, all on the page"
    expected = ["runs", "parent", "sweep-plots-pareto-front", "trial-3-curves", "trial-3-grids-test"]
    assert {path.name for path in tmp_path.iterdir()} == {f"mlflow-{name}.png" for name in expected}
    for path in tmp_path.iterdir():
        assert Image.open(path).size == (1360, 860)
        assert path.stat().st_size < 300_000


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("damaged", "damaged: picture plots/pareto_front.png"),
        ("lonely", "lonely: has no child runs"),
        ("nobody", "no run nobody in experiment metgan"),
    ],
)
def test_what_is_missing_is_one_line(ui, tmp_path, name, line):
    done = look(ui, tmp_path, name, seconds=30)
    assert done.code == 1, done.out + done.err
    assert done.err.count("\n") == 1
    assert line in done.err
