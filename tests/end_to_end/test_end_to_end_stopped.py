"""Ctrl-C in a terminal, while a segmentor trains on the job's own cluster: the run is stopped, and saved first."""

import json
import os
import signal

import pytest
from user import kill_tree, start

from metgan_dist.training.snapshot import read_snapshot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ENDLESS = {
    "tracking__run": "run",
    "method__segmentor_max_steps": 100_000,
    "method__segmentor_epochs": 100_000,
    "training__checkpoint_every": 1_000_000,
    "training__validate_every": 1_000_000,
}


@pytest.fixture(autouse=True)
def heeded():
    """The job hears Ctrl-C, also where the tests run in the background of a script and were started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_a_segmentor_trains_stops_the_run_with_its_line(tmp_path):
    job, said = start("train_metgan", tmp_path, **ENDLESS), []
    try:
        while not any(line.startswith("segmentor  ") for line in said):
            said.append(job.stdout.readline())
            assert said[-1], "".join(said)
        os.killpg(job.pid, signal.SIGINT)  # a terminal's Ctrl-C goes to the whole group
        said.append(job.stdout.read())
        code = job.wait(timeout=60)
    finally:
        if job.poll() is None:
            kill_tree(job)
    output = "".join(said)
    assert code == 1, output
    assert output.strip().splitlines()[-1] == "stopped; start again with the same --tracking.run to continue"
    assert "segmentor: asked to stop; saving" in output
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result["reason"]) == ("stopped", "stopped by a signal")
    assert read_snapshot(str(tmp_path / "run" / "train" / "segmentor"), {}).latest.metrics["images"] > 0
