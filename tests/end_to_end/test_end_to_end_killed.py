"""SIGKILL of a worker, or of the whole job: the run goes on and ends with the weights of one never disturbed."""

import json
import time
from pathlib import Path

import psutil
import pytest
import torch
from user import kill_tree, run, run_here, start, wait_for

LONG = {
    "training__max_steps": 16,
    "training__checkpoint_every": 8,
    "training__validate_every": 16,
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


def wait_for_checkpoint(process, storage, seconds=240):
    """Until a checkpoint of the method, past the segmentors, lies in the storage."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        # Ray continues from what its snapshot lists, which it writes after the checkpoint itself.
        snapshot = Path(storage) / "run/train/metgan/checkpoint_manager_snapshot.json"
        if snapshot.exists() and "images-" in snapshot.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint appeared: {process.stdout.read()}")


def train_workers(process):
    found = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in found if "RayTrainWorker" in " ".join(child.cmdline())]
    return sorted(workers, key=psutil.Process.create_time)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, ray_cluster, segmentors):
    """Tiles and a segmentor, made once."""
    done = run_here("make_tiles", tmp_path_factory.mktemp("prepared"))
    assert done.code == 0, done.out + done.err
    return {"data__path": done.result["artefacts"]["tiles"], **segmentors}


@pytest.fixture(scope="module", params=[1, 2])
def undisturbed(request, tmp_path_factory, prepared):
    """The fields of a run by one or two workers, and the weights that it ends with when nothing is killed."""
    workers = request.param
    fields = {**LONG, **prepared, "scaling__workers": workers, "training__batch_size": 2 // workers}
    storage = tmp_path_factory.mktemp("undisturbed")
    done = run("train_metgan", storage, **fields)
    assert done.code == 0, done.out + done.err
    return fields, weights(storage)


def test_a_run_whose_worker_was_killed_ends_with_the_weights_of_an_undisturbed_one(tmp_path, undisturbed):
    fields, expected = undisturbed
    job = start("train_metgan", tmp_path, **fields)
    wait_for_checkpoint(job, tmp_path)
    victims = train_workers(job)
    assert victims, "no training worker found to kill"
    victims[-1].kill()
    output = wait_for(job)
    assert job.returncode == 0, output
    assert "continuing from" in output
    assert same(expected, weights(tmp_path))


def test_a_killed_job_started_again_ends_with_the_weights_of_an_undisturbed_one(tmp_path, undisturbed):
    fields, expected = undisturbed
    job = start("train_metgan", tmp_path, **fields)
    wait_for_checkpoint(job, tmp_path)
    kill_tree(job)
    again = run("train_metgan", tmp_path, **fields)
    assert again.code == 0, again.out + again.err
    assert "continuing run run" in again.out
    assert "continuing from" in again.out
    assert same(expected, weights(tmp_path))
