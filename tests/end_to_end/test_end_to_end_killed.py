"""SIGKILL of a worker, then of the whole job: the run goes on and ends with the weights of one never disturbed."""

import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
import torch
from servers import wait_until
from user import SHARED_CLUSTER, run_here, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# By two workers. Each start leaves enough to do that it can be killed in the middle. Of one thread each, wherever: a
# sum of other parts is another sum.
LONG = {
    "training__max_steps": 40,
    "training__checkpoint_every": 16,
    "training__validate_every": 80,
    "training__epochs": 100,
    "training__batch_size": 1,
    "scaling__workers": 2,
    "scaling__cpus_per_worker": 0.5,
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


def checkpoint(storage, after=0):
    """The images of the method's last checkpoint, None while it has none after so many."""
    # Ray continues from what its snapshot lists, which it writes after the checkpoint itself.
    snapshot = Path(storage) / "run/train/metgan/checkpoint_manager_snapshot.json"
    listed = re.findall(r"images-(\d+)", snapshot.read_text()) if snapshot.exists() else []
    last = max(map(int, listed), default=0)
    return last if last > after else None


def processes_of(job, kind=""):
    """The processes of a job's living actors on the shared cluster whose class has `kind` in its name."""
    mine = {known["JobID"] for known in ray._private.state.state.job_table() if known["DriverPid"] == job.pid}
    actors = ray._private.state.actors(actor_state_name="ALIVE").values()
    return [actor["Pid"] for actor in actors if actor["JobID"] in mine and kind in actor["ActorClassName"]]


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
def disturbed(fields, ray_cluster, tmp_path_factory):
    """(storage, output of the first start, finished second start): a worker dies in the first, then all of it does."""
    storage = tmp_path_factory.mktemp("disturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SHARED_CLUSTER, ray_cluster)
        job = start("train_metgan", storage, **fields)
    try:
        wait_until(lambda: checkpoint(storage), process=job)
        os.kill(processes_of(job, "RayTrainWorker")[-1], signal.SIGKILL)
        said = []
        while not (restarted := re.search(r"metgan: continuing from (\d+)", "".join(said))):
            said.append(job.stdout.readline())
            assert said[-1], "".join(said)
        wait_until(lambda: checkpoint(storage, after=int(restarted[1])), process=job)
        whole = [job.pid, *processes_of(job)]
    finally:
        job.kill()
    for pid in whole:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    said.append(job.stdout.read())
    job.wait()
    wait_until(lambda: not any(map(psutil.pid_exists, whole)))
    return storage, "".join(said), run_here("train_metgan", storage, **fields)


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
