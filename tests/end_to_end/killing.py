"""A training of two workers that is killed, first a worker, then all of the job, and goes on each time."""

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
    """The state of the last checkpoint of a finished run."""
    result = json.loads((Path(storage) / "run" / "result.json").read_text())
    assert result["status"] == "finished"
    return torch.load(Path(result["artefacts"]["last_checkpoint"]) / "state.pt", weights_only=True)


def same(first, second):
    """Whether two states are equal to the last bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def checkpoint(storage, role, after=0):
    """The images of the method's last checkpoint, None while it has none after so many."""
    # Ray continues from what its snapshot lists, which it writes after the checkpoint itself.
    snapshot = Path(storage) / f"run/train/{role}/checkpoint_manager_snapshot.json"
    listed = re.findall(r"images-(\d+)", snapshot.read_text()) if snapshot.exists() else []
    last = max(map(int, listed), default=0)
    return last if last > after else None


def processes_of(job, kind=""):
    """The processes of a job's living actors on the shared cluster whose class has `kind` in its name."""
    mine = {known["JobID"] for known in ray._private.state.state.job_table() if known["DriverPid"] == job.pid}
    actors = ray._private.state.actors(actor_state_name="ALIVE").values()
    return [actor["Pid"] for actor in actors if actor["JobID"] in mine and kind in actor["ActorClassName"]]


def killed_and_continued(storage, cluster, role, fields):
    """(output of the first start, finished second start): a worker dies in the first, then all of it does.

    `role` names the training that is disturbed, `cluster` the one that the job joins.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SHARED_CLUSTER, cluster)
        job = start("train_metgan", storage, **fields)
    try:
        wait_until(lambda: checkpoint(storage, role), process=job)
        os.kill(processes_of(job, "RayTrainWorker")[-1], signal.SIGKILL)
        said = []
        while not (restarted := re.search(rf"{role}: continuing from (\d+)", "".join(said))):
            said.append(job.stdout.readline())
            assert said[-1], "".join(said)
        wait_until(lambda: checkpoint(storage, role, after=int(restarted[1])), process=job)
        whole = [job.pid, *processes_of(job)]
    finally:
        job.kill()
    for pid in whole:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    said.append(job.stdout.read())
    job.wait()
    wait_until(lambda: not any(map(psutil.pid_exists, whole)))
    return "".join(said), run_here("train_metgan", storage, **fields)
