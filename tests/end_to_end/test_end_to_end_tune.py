"""A sweep over loss weights as a user runs it: killed, started again, a worker and a node taken away, and bad input."""

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from ray.cluster_utils import Cluster
from user import SHARED_CLUSTER, kill_tree, run, run_here, start, wait_for

from metgan_dist.recipe import Recipe
from metgan_dist.tracking import nested_runs

# Alone with 1e30 a training diverges; the seed is one that draws both values within four trials.
SPACE = '{"method.alpha1": {"low": 0.1, "high": 10}, "training.learning_rate": [0.002, 1e30]}'
SMALL = {
    "training__max_steps": 12,
    "tuning__trials": 4,
    "tuning__reports": 3,
    "tuning__grace": 0.3,
    "tuning__reduction": 2,
    "tuning__seed": 3,
    "tuning__space": SPACE,
    "tuning__concurrent": 2,
}
WAIT = 400  # seconds


def lines_until(process, wanted, collected):
    """Read what a job says until a line holds `wanted`."""
    deadline = time.monotonic() + WAIT
    for line in process.stdout:
        collected.append(line.rstrip())
        if wanted in line:
            return
        assert time.monotonic() < deadline, collected
    pytest.fail(f"ended without {wanted!r}: {collected}")


def workers_of(process, name="ray::RayTrainWorker"):
    """Ray's processes of that name which the job's own cluster runs."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if name in " ".join(child.cmdline()):
                found.append(child)
    return found


def result_in(output):
    """The result.json that a job's last line names."""
    last = output.strip().splitlines()[-1]
    assert last.startswith("result: "), output
    return json.loads(Path(last.removeprefix("result: ")).read_text())


@pytest.fixture(scope="module")
def killed_twice(tmp_path_factory):
    """A sweep whose driver was killed after a trial had ended, and one of whose workers was after the next start."""
    storage = tmp_path_factory.mktemp("tune")
    first, second = [], []
    process = start("tune_loss_weights", storage, tracking__run="sweep", **SMALL)
    lines_until(process, "trial-001: done", first)
    time.sleep(5)  # Tune writes down every two seconds what it knows
    kill_tree(process)
    process = start("tune_loss_weights", storage, tracking__run="sweep", **SMALL)
    lines_until(process, "goes on with" if any("trial-002: starts" in line for line in first) else "starts", second)
    deadline = time.monotonic() + WAIT
    while not (workers := workers_of(process)):
        assert time.monotonic() < deadline, second
        time.sleep(0.2)
    workers[0].kill()
    second.append(wait_for(process))
    return storage, "\n".join(first), "\n".join(second), process.returncode


@pytest.mark.timeout(1800)
def test_a_sweep_survives_the_death_of_its_driver_and_of_a_worker(killed_twice):
    _, _, second, code = killed_twice
    assert code == 0, second
    result = result_in(second)
    assert result["status"] == "finished"
    assert len(result["artefacts"]["trials"]) == 4
    assert "a worker failed" in second or "goes on with" in second
    assert "Traceback" not in second


def test_finished_trials_are_not_run_again(killed_twice):
    _, first, second, _ = killed_twice
    done = {line.partition(":")[0] for line in first.splitlines() if ": done" in line or ": stopped" in line}
    assert "trial-001" in done
    for name in done:
        assert f"{name}: goes on" not in second
        assert f"{name}: starts" not in second


def test_no_trial_and_no_mlflow_child_is_there_twice_or_lost(killed_twice):
    storage, _, second, _ = killed_twice
    result = result_in(second)
    children = nested_runs(result["tracking_uri"], result["mlflow_run_id"])
    trials = result["artefacts"]["trials"]
    assert sorted(child.tags["trial"] for child in children) == sorted(trials)
    for child in children:
        failed = trials[child.tags["trial"]]["outcome"] == "failed"
        assert child.status == ("FAILED" if failed else "FINISHED")
    trained = [path.name.rpartition("-")[0] for path in (storage / "sweep" / "train").glob("trial-*")]
    assert len(trained) == len(set(trained))


def test_a_trial_that_diverges_is_recorded_with_its_reason(killed_twice):
    _, _, second, _ = killed_twice
    trials = result_in(second)["artefacts"]["trials"]
    diverged = [trial for trial in trials.values() if trial["values"]["training.learning_rate"] > 1]
    assert diverged
    for trial in diverged:
        assert trial["outcome"] == "failed"
        assert "is not finite" in trial["reason"]
    assert trials["trial-001"]["outcome"] == "whole"


def test_the_best_recipe_is_taken_as_it_is(killed_twice):
    storage, _, second, _ = killed_twice
    result = result_in(second)
    best = result["artefacts"]["trials"][result["artefacts"]["best_trial"]]
    path = storage / "sweep" / "best.yaml"
    assert Recipe.model_validate(yaml.safe_load(path.read_text())).method.alpha1 == best["values"]["method.alpha1"]
    taken = run("train_metgan", storage, "--recipe", str(path), "--dry-run")
    assert taken.code == 0, taken.err
    assert f"alpha1: {best['values']['method.alpha1']}" in taken.out


def test_tables_plots_and_pictures_are_where_the_result_says(killed_twice):
    _, _, second, _ = killed_twice
    result = result_in(second)
    for name in ("sweep", "best", "plots/parallel-coordinates-mae", "plots/learning-curves-mae", "plots/pareto-front"):
        assert Path(result["artefacts"][name]).stat().st_size > 0
    assert "| 001 (own) |" in second
    assert result["scores"]["sweep"]["images"] < result["scores"]["sweep"]["images_in_full"]


@pytest.mark.timeout(1800)
def test_a_node_that_is_lost_in_the_middle_costs_no_trial(tmp_path):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        fields = {**SMALL, "tuning__space": '{"method.alpha1": {"low": 0.1, "high": 10}}', "tuning__trials": 3}
        said = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(SHARED_CLUSTER, cluster.address)
            process = start("tune_loss_weights", tmp_path, tracking__run="sweep", **fields)
        lines_until(process, "trial-002: starts", said)
        lines_until(process, "validation at", said)
        cluster.remove_node(node, allow_graceful=False)
        said.append(wait_for(process))
        assert process.returncode == 0, "\n".join(said)
        result = result_in("\n".join(said))
        assert len(result["artefacts"]["trials"]) == 3
        children = nested_runs(result["tracking_uri"], result["mlflow_run_id"])
        assert len(children) == 3
        assert left_behind(cluster.address) == []
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


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"tuning__space": '{"method.alhpa1": {"low": 1, "high": 2}}'}, "did you mean method.alpha1?"),
        ({"tuning__space": '{"method.alpha1": {"low": 10, "high": 1}}'}, "low must be below high, not 10 to 1"),
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


def test_a_name_that_belongs_to_another_space_is_refused(ray_cluster, killed_twice):
    storage = killed_twice[0]
    other = SMALL | {"tuning__space": SPACE.replace('"high": 10', '"high": 20')}
    done = run_here("tune_loss_weights", storage, tracking__run="sweep", **other)
    assert done.code == 2
    assert "tuning.space.method.alpha1.high was 10.0, is 20.0); choose another name" in done.err
    assert len(done.err.strip().splitlines()) == 1
