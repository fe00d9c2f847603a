"""Jobs run as a user runs them: a subprocess, its exit code, its last line."""

import io
import json
import os
import runpy
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from mlflow_store import make_store, ready_tables

from metgan_dist.cluster.joining import OWN_TRAININGS

ROOT = Path(__file__).resolve().parents[2]

SHARED_CLUSTER = "METGAN_TESTS_CLUSTER"

# Below the time that a test has.
TOO_LONG = 400  # seconds

# Two test processes share the cluster, and neither waits for the other. Nor do they fight for cores: a training that is
# not told its CPUs has a thread for each core of the machine, which then mostly waits for what another one does there.
SHARE = {"scaling.share": "0.5", "scaling.cpus_per_worker": "0.5"}
# As many replicas as the cluster has CPUs would load torch as often, for a handful of images.
ALONE = {"synthesize": {"synthesis.replicas": "1"}, "insert_tumours": {"insertion.replicas": "1"}}

# Every part of the main job, as small as it goes.
TINY = {
    "data.phantom.volumes": "5",
    "data.phantom.shape": "16,128,128",
    "tiles.size": "64",
    "tiles.stride": "64",
    "tiles.depth": "8",
    "tiles.step": "8",
    "method.width": "0.05",
    "method.segmentor_width": "0.05",
    "method.segmentor_max_steps": "4",
    "training.max_steps": "8",
    "training.batch_size": "2",
    "training.checkpoint_every": "8",
    "training.validate_every": "16",
    "training.validate_tiles": "4",
    "scaling.workers": "1",
    "tracking.patience": "5",
}


@dataclass
class Finished:
    """A job that ended."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict:
        """Its result.json, found as a user finds it: by the last line."""
        last = self.out.strip().splitlines()[-1]
        assert last.startswith("result: "), self.out + self.err
        return json.loads(Path(last.removeprefix("result: ")).read_text())


def command(job: str, storage: object, tiny: bool = True, shared: bool = False, **fields: object) -> list[str]:
    """The command line of a job with the tiny settings, and `fields` (dots as double underscores) over them."""
    if "tracking__uri" not in fields and Path(str(storage)).is_dir():
        make_store(Path(str(storage)) / "mlflow.db")
    chosen = {
        **(SHARE | ALONE.get(job, {}) if shared else {}),
        **(TINY if tiny else {}),
        "storage.path": str(storage),
        **{name.replace("__", "."): str(v) for name, v in fields.items()},
    }
    flags = [part for name, value in chosen.items() for part in (f"--{name}", value)]
    return [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *flags]


def environment(**more: str) -> dict[str, str]:
    """The tests' environment without what would send the job to someone else's cluster or server."""
    own = {} if SHARED_CLUSTER in os.environ else OWN_TRAININGS
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", *own)}
    shared = {"RAY_ADDRESS": kept[SHARED_CLUSTER]} if SHARED_CLUSTER in kept else {}
    return {**kept, **shared, "OMP_NUM_THREADS": "1", **more}


def run(job: str, storage: object, *extra: str, env: dict[str, str] | None = None, **fields: object) -> Finished:
    """Run a job to its end; one that takes too long is killed, and fails the test with what it had said."""
    process = subprocess.Popen(
        [*command(job, storage, shared=SHARED_CLUSTER in os.environ, **fields), *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env or environment(),
        start_new_session=True,
    )
    out, err = _outputs(process)
    return Finished(process.returncode, out, err)


def run_here(job: str, storage: object, *extra: str, tiny: bool = True, **fields: object) -> Finished:
    """Run a job's script in this process, on the cluster that it is connected to: many small ones cost little."""
    _, script, *arguments = command(job, storage, tiny, shared=True, **fields)
    return run_script(script, *arguments, *extra)


def run_script(script: str | Path, *arguments: str) -> Finished:
    """Run a script in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [str(script), *arguments])
        ready_tables(patch)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
    return Finished(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def start(job: str, storage: object, script: str | None = None, **fields: object) -> subprocess.Popen:
    """Start a job, or another `script` with its flags, in a process group of its own: all of it can be killed."""
    python, usual, *flags = command(job, storage, shared=SHARED_CLUSTER in os.environ, **fields)
    return subprocess.Popen(
        [python, script or usual, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen) -> str:
    """All that a started job says until it ends; too long a wait is a failure, as in `run`."""
    return _outputs(process)[0]


def _outputs(process: subprocess.Popen) -> tuple[str, str]:
    try:
        return process.communicate(timeout=TOO_LONG)
    except subprocess.TimeoutExpired:
        kill_tree(process)
        out, err = process.communicate()
        pytest.fail(f"not done after {TOO_LONG} s: {process.args}\n{out}{err or ''}")


def kill_tree(process: subprocess.Popen) -> None:
    """SIGKILL a job and every process that it started, Ray's own included."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGKILL)
    process.wait(timeout=30)


def refused(finished: Finished, *culprits: object) -> str:
    """Assert the contract of a user's mistake, with each culprit named; returns the line."""
    lines = finished.err.strip().splitlines()
    assert finished.code == 2, finished.out + finished.err
    assert len(lines) == 1, finished.err
    assert lines[0].startswith("error: ")
    for culprit in culprits:
        assert str(culprit) in lines[0], lines[0]
    return lines[0]
