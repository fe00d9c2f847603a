"""A sweep over loss weights as a user runs it: killed, started again, a worker and a node taken away, and bad input."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from ray.cluster_utils import Cluster
from user import SHARED_CLUSTER, kill_tree, run_here, start, wait_for

from metgan_dist.runs.command_line import parse_command
from metgan_dist.tracking import nested_runs

SMALL = {
    "training__max_steps": 12,
    "tuning__reports": 3,
    "tuning__concurrent": 2,
    "tuning__space": '{"method.alpha1": {"low": 0.1, "high": 10}}',
}
# At 1e30 a training diverges, at 1e-9 it learns nothing. The seed draws the first for trial 2, the second for trial 3.
RATES = {
    "tuning__trials": 3,
    "tuning__seed": 5,
    "tuning__grace": 0.3,
    "tuning__reduction": 2,
    "tuning__space": '{"method.alpha1": {"low": 0.1, "high": 10}, "training.learning_rate": [0.002, 1e-9, 1e30]}',
}
TOO_LONG = 600  # seconds, after which a sweep hangs


@contextmanager
def started(storage, **fields):
    """A sweep that was just started; it does not outlive the block, nor does it hang."""
    process = start("tune_loss_weights", storage, tracking__run="sweep", **SMALL | fields)
    end = threading.Timer(TOO_LONG, kill_tree, [process])
    end.start()
    try:
        yield process
    finally:
        end.cancel()
        with suppress(psutil.NoSuchProcess):
            kill_tree(process)


def lines_until(process, *wanted):
    """What a job says until a line holds one of `wanted`."""
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if any(text in line for text in wanted):
            return lines
    pytest.fail(f"ended without {wanted}: {lines}")


def wait_until(ready):
    """The first true answer of `ready`."""
    deadline = time.monotonic() + TOO_LONG
    while not (answer := ready()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return answer


def has_noted_an_end(storage):
    """Whether what Tune writes down every few seconds knows of a trial that has ended."""
    return any(
        "TERMINATED" in path.read_text() for path in (storage / "sweep" / "tune").glob("experiment_state-*.json")
    )


def workers_of(process):
    """The training workers of the job's own cluster."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ray::RayTrainWorker" in " ".join(child.cmdline()):
                found.append(child)
    return found


def result_in(lines):
    """The result.json that a job's last line names."""
    assert lines[-1].startswith("result: "), "\n".join(lines)
    return json.loads(Path(lines[-1].removeprefix("result: ")).read_text())


def children_of(result):
    return nested_runs(result["tracking_uri"], result["mlflow_run_id"])


@pytest.fixture(scope="module")
def killed_twice(tmp_path_factory, segmentors):
    """A sweep whose driver was killed after a trial had ended, and one of whose workers was after the next start."""
    storage = tmp_path_factory.mktemp("tune")
    fields = RATES | segmentors
    with started(storage, **fields | {"tuning__concurrent": 1}) as process:
        first = lines_until(process, "trial-001: done")
        wait_until(lambda: has_noted_an_end(storage))
        kill_tree(process)
        first += process.stdout.read().splitlines()
    with started(storage, **fields) as process:
        second = lines_until(process, "trial-003: starts", "trial-003: goes on")
        wait_until(lambda: workers_of(process))[0].kill()
        second += wait_for(process).splitlines()
    assert process.returncode == 0, "\n".join(second)
    return storage, first, second


@pytest.mark.timeout(1800)
def test_a_sweep_survives_the_death_of_its_driver_and_of_a_worker(killed_twice):
    _, _, second = killed_twice
    result = result_in(second)
    assert result["status"] == "finished"
    assert list(result["artefacts"]["trials"]) == ["trial-001", "trial-002", "trial-003"]
    assert "Traceback" not in "\n".join(second)


def test_a_finished_trial_is_not_run_again(killed_twice):
    _, first, second = killed_twice
    assert any(line.startswith("trial-001: starts") for line in first)
    assert not any(line.startswith(("trial-001: starts", "trial-001: goes on")) for line in second)


def test_no_trial_and_no_mlflow_child_is_there_twice_or_lost(killed_twice):
    storage, _, second = killed_twice
    result = result_in(second)
    trials = result["artefacts"]["trials"]
    status = {child.tags["trial"]: child.status for child in children_of(result)}
    assert len(children_of(result)) == len(trials)
    assert status == {"trial-001": "FINISHED", "trial-002": "FAILED", "trial-003": "FINISHED"}
    trained = sorted(path.name.rpartition("-")[0] for path in (storage / "sweep" / "train").glob("trial-*"))
    assert trained == sorted(trials)


def test_how_each_trial_ended_is_recorded_with_its_reason(killed_twice):
    _, _, second = killed_twice
    trials = result_in(second)["artefacts"]["trials"]
    assert [trials[name]["outcome"] for name in sorted(trials)] == ["whole", "failed", "stopped"]
    assert "is not finite" in trials["trial-002"]["reason"]
    # By the first trial's score, which the sweep remembers over the death of its driver.
    assert trials["trial-003"]["reason"] == "asha at 8 of 24 images"


def test_tables_plots_and_pictures_are_where_the_result_says(killed_twice):
    _, _, second = killed_twice
    result = result_in(second)
    for name in ("sweep", "best", "plots/parallel-coordinates-mae", "plots/learning-curves-mae", "plots/pareto-front"):
        assert Path(result["artefacts"][name]).stat().st_size > 0
    assert any(line.startswith("| 001 (own) |") for line in second)
    assert result["scores"]["sweep"]["images"] < result["scores"]["sweep"]["images_in_full"]


@pytest.fixture(scope="module")
def node_lost(killed_twice, segmentors, tmp_path_factory):
    """A sweep whose trials lay on one node, which was killed in the middle of them: a smaller one takes its place.

    The tiles are the other sweep's. Returns storage, what the job said, and the placement groups left.
    """
    storage = tmp_path_factory.mktemp("node")
    ready = {"data__path": result_in(killed_twice[2])["artefacts"]["tiles"], **segmentors}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(SHARED_CLUSTER, cluster.address)
            sweep = started(storage, tuning__trials=2, tuning__scheduler="none", **ready)
            with sweep as process:
                said = lines_until(process, "validation at 16 images")
                cluster.add_node(num_cpus=1)
                cluster.remove_node(node, allow_graceful=False)
                said += wait_for(process).splitlines()
        assert process.returncode == 0, "\n".join(said)
        return storage, said, left_behind(cluster.address)
    finally:
        cluster.shutdown()


def left_behind(address):
    """States of a cluster's remaining placement groups, asked in another process: this one may have joined another."""
    code = (
        "import ray, json, logging\n"
        f"ray.init(address={address!r}, log_to_driver=False, logging_level=logging.ERROR)\n"
        "groups = ray.util.placement_group_table().values()\n"
        "print(json.dumps([g['state'] for g in groups if g['state'] != 'REMOVED']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.timeout(1800)
def test_a_node_that_is_lost_in_the_middle_costs_no_trial(node_lost):
    _, said, left = node_lost
    result = result_in(said)
    assert [trial["outcome"] for trial in result["artefacts"]["trials"].values()] == ["whole", "whole"]
    assert [child.status for child in children_of(result)] == ["FINISHED", "FINISHED"]
    assert left == []


def test_trials_of_a_lost_node_go_on_from_their_last_report(node_lost):
    _, said, _ = node_lost
    result, seen = result_in(said), next(line for line in said if "validation at 16 images" in line)
    child = next(child for child in children_of(result) if seen.startswith(child.tags["trial"]))
    history = MlflowClient(result["tracking_uri"]).get_metric_history(child.id, "validation/mae")
    assert [metric.step for metric in history].count(8) == 1
    assert history[-1].step == 24


def test_the_best_recipe_is_taken_as_it_is(node_lost):
    storage, said, _ = node_lost
    made = result_in(said)["artefacts"]
    taken = parse_command("train_metgan.py", "", ["--recipe", str(storage / "sweep" / "best.yaml")]).recipe
    assert taken.method.alpha1 == made["trials"][made["best_trial"]]["values"]["method.alpha1"]
    assert taken.training.max_steps == SMALL["training__max_steps"]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"tuning__space": '{"method.alhpa1": {"low": 1, "high": 2}}'}, "did you mean method.alpha1?"),
        (
            {"tuning__space": '{"method.alpha1": {"low": 10, "high": 1}}'},
            "{'low': 10, 'high': 1}: low must be below high, not 10 to 1; exchange the bounds\n",
        ),
        ({"tuning__concurrent": 99, "tuning__trials": 100}, "tuning.concurrent: 99 trials of 1 worker(s) do not fit"),
        ({"tuning__scheduler": "pbt"}, "goes with search random, not optuna"),
    ],
)
def test_bad_input_is_one_line_before_any_work(ray_cluster, tmp_path, fields, line):
    done = run_here("tune_loss_weights", tmp_path, **fields)
    assert done.code == 2
    assert line in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "tiles").exists()


def test_a_name_that_belongs_to_another_space_is_refused(ray_cluster, segmentors, killed_twice):
    other = SMALL | RATES | segmentors | {"tuning__space": RATES["tuning__space"].replace('"high": 10', '"high": 20')}
    done = run_here("tune_loss_weights", killed_twice[0], tracking__run="sweep", **other)
    assert done.code == 2
    assert "tuning.space.method.alpha1.high was 10.0, is 20.0); choose another name" in done.err
    assert len(done.err.strip().splitlines()) == 1
