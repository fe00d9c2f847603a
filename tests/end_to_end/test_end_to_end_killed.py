"""SIGKILL of a worker, then of the whole job: the run goes on and ends with the weights of one never disturbed."""

import json
import re
import time
from pathlib import Path

import psutil
import pytest
import torch
from user import kill_tree, run, run_here, start

pytestmark = pytest.mark.timeout(1200)

# By two workers. Each start leaves enough to do that it can be killed in the middle.
LONG = {
    "training__max_steps": 60,
    "training__checkpoint_every": 16,
    "training__validate_every": 120,
    "training__epochs": 100,
    "training__batch_size": 1,
    "scaling__workers": 2,
    "tracking__run": "run",
}


def weights(storage):
    result = json.loads((Path(storage) / "run" / "result.json").read_text())
    assert result["status"] == "finished"
    return torch.load(Path(result["artefacts"]["last_checkpoint"]) / "state.pt", weights_only=True)


def same(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def wait_for_checkpoint(process, storage, after=0, seconds=240):
    """Until a checkpoint of the method after so many images lies in the storage; returns its images."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        # Ray continues from what its snapshot lists, which it writes after the checkpoint itself.
        snapshot = Path(storage) / "run/train/metgan/checkpoint_manager_snapshot.json"
        listed = re.findall(r"images-(\d+)", snapshot.read_text()) if snapshot.exists() else []
        if listed and (last := max(map(int, listed))) > after:
            return last
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint appeared: {process.stdout.read()}")


def train_workers(process):
    found = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in found if "RayTrainWorker" in " ".join(child.cmdline())]
    return sorted(workers, key=psutil.Process.create_time)


@pytest.fixture(scope="module")
def fields(tmp_path_factory, ray_cluster, segmentors):
    """The run's fields, with tiles made once."""
    done = run_here("make_tiles", tmp_path_factory.mktemp("prepared"))
    assert done.code == 0, done.out + done.err
    return {**LONG, "data__path": done.result["artefacts"]["tiles"], **segmentors}


@pytest.fixture(scope="module")
def undisturbed(fields, tmp_path_factory):
    """The finished job when nothing is killed, and the weights that it ends with."""
    storage = tmp_path_factory.mktemp("undisturbed")
    done = run_here("train_metgan", storage, **fields)
    assert done.code == 0, done.out + done.err
    return done, weights(storage)


@pytest.fixture(scope="module")
def disturbed(fields, tmp_path_factory):
    """(storage, output of the first start, finished second start): a worker dies in the first, then all of it does."""
    storage = tmp_path_factory.mktemp("disturbed")
    job = start("train_metgan", storage, **fields)
    wait_for_checkpoint(job, storage)
    victims = train_workers(job)
    assert victims, "no training worker found to kill"
    victims[-1].kill()
    said = []
    while not (restarted := re.search(r"metgan: continuing from (\d+)", "".join(said))):
        said.append(job.stdout.readline())
        assert said[-1], "".join(said)
    wait_for_checkpoint(job, storage, after=int(restarted[1]))
    kill_tree(job)
    return storage, "".join([*said, job.stdout.read()]), run("train_metgan", storage, **fields)


def test_a_worker_that_is_killed_is_replaced_and_goes_on_from_the_last_checkpoint(disturbed):
    _, said, _ = disturbed
    assert len(re.findall("metgan: continuing from", said)) == 1


def test_a_killed_job_started_again_ends_with_the_weights_of_an_undisturbed_one(disturbed, undisturbed):
    storage, _, again = disturbed
    assert again.code == 0, again.out + again.err
    assert "continuing run run" in again.out
    assert "metgan: continuing from" in again.out
    assert same(undisturbed[1], weights(storage))


def test_prepared_tiles_and_segmentor_are_taken_as_they_are(fields, undisturbed):
    done, _ = undisturbed
    made = done.result["artefacts"]
    assert made["tiles"] == fields["data__path"]
    assert (made["segmentor"], made["judge"]) == (fields["method__segmentor"], fields["method__judge"])
    assert "training a segmentor" not in done.out
