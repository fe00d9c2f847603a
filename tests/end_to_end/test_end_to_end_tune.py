"""A sweep over loss weights as a user runs it: to its end, killed and started again, a node taken away, bad input."""

import json
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pretended
import psutil
import pytest
from mlflow import MlflowClient
from ray.cluster_utils import Cluster
from servers import LONG_ENOUGH, wait_until
from user import SHARED_CLUSTER, kill_tree, run_here, start, wait_for

from metgan_dist.runs.command_line import parse_command
from metgan_dist.tracking import nested_runs
from metgan_dist.tuning import sweep

SMALL = {
    "training__max_steps": 12,
    "tuning__reports": 3,
    "tuning__concurrent": 2,
    "tuning__space": '{"method.alpha1": {"low": 0.1, "high": 10}}',
    "scaling__cpus_per_worker": 0.5,
    "tracking__run": "sweep",
}
# At 1e30 a training diverges, at 1e-9 it learns nothing. The seed draws the first for trial 2, the second for trial 3.
RATES = SMALL | {
    "tuning__trials": 3,
    "tuning__seed": 5,
    "tuning__grace": 0.3,
    "tuning__reduction": 2,
    "tuning__space": '{"method.alpha1": {"low": 0.1, "high": 10}, "training.learning_rate": [0.001, 1e-9, 1e30]}',
}
TWO = RATES | {"tuning__trials": 2}
TOO_LONG = 600  # seconds, after which a sweep hangs


@contextmanager
def started(storage, script=None, **fields):
    """A sweep that was just started; it does not outlive the block, nor does it hang."""
    process = start("tune_loss_weights", storage, script, **fields)
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


def has_noted_an_end(storage):
    """Whether what Tune writes down every few seconds knows of a trial that has ended."""
    return any(
        "TERMINATED" in path.read_text() for path in (storage / "sweep" / "tune").glob("experiment_state-*.json")
    )


def result_in(lines):
    """The result.json that a job's last line names."""
    assert lines[-1].startswith("result: "), "\n".join(lines)
    return json.loads(Path(lines[-1].removeprefix("result: ")).read_text())


def children_of(result):
    return nested_runs(result["tracking_uri"], result["mlflow_run_id"])


def steps_of(result, child):
    """Images at the validations that a trial has logged."""
    return [m.step for m in MlflowClient(result["tracking_uri"]).get_metric_history(child.id, "validation/mae")]


@pytest.fixture(scope="module")
def real(ray_cluster, tmp_path_factory, segmentors):
    """(storage, finished job) of a sweep of two trials, the second of which diverges."""
    storage = tmp_path_factory.mktemp("real")
    return storage, run_here("tune_loss_weights", storage, **TWO | segmentors)


def test_trials_are_trainings_of_their_own_with_mlflow_children(real):
    _, done = real
    assert done.code == 0, done.out + done.err
    result = done.result
    trials = result["artefacts"]["trials"]
    assert [trials[name]["outcome"] for name in sorted(trials)] == ["whole", "failed"]
    assert "is not finite" in trials["trial-002"]["reason"]
    children = {child.tags["trial"]: child for child in children_of(result)}
    assert {name: child.status for name, child in children.items()} == {"trial-001": "FINISHED", "trial-002": "FAILED"}
    assert steps_of(result, children["trial-001"]) == [8, 16, 24]
    assert "Traceback" not in done.out + done.err


def test_the_best_recipe_is_taken_as_it_is(real):
    storage, done = real
    made = done.result["artefacts"]
    taken = parse_command("train_metgan.py", "", ["--recipe", str(storage / "sweep" / "best.yaml")]).recipe
    assert taken.method.alpha1 == made["trials"][made["best_trial"]]["values"]["method.alpha1"]
    assert taken.training.max_steps == SMALL["training__max_steps"]


def test_a_name_that_belongs_to_another_space_is_refused(real, segmentors):
    other = TWO | segmentors | {"tuning__space": RATES["tuning__space"].replace('"high": 10', '"high": 20')}
    done = run_here("tune_loss_weights", real[0], **other)
    assert done.code == 2
    assert "tuning.space.method.alpha1.high was 10.0, is 20.0); choose another name" in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def killed_twice(ray_cluster, tmp_path_factory, segmentors):
    """A sweep whose driver was killed after a trial had ended, and one of whose trials was after the next start.

    Its trainings are pretended. Returns storage, and the lines of the two starts.
    """
    storage = tmp_path_factory.mktemp("tune")
    fields = RATES | segmentors
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SHARED_CLUSTER, ray_cluster)
        with started(storage, pretended.__file__, **fields | {"tuning__concurrent": 1}) as process:
            first = lines_until(process, "trial-001: done")
            wait_until(lambda: has_noted_an_end(storage), lambda: "\n".join(first))
            kill_tree(process)
            first += process.stdout.read().splitlines()
    (storage / "sweep" / pretended.GATE).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "Trainable", pretended.Trial)
        done = run_here("tune_loss_weights", storage, **fields)
    assert done.code == 0, done.out + done.err
    return storage, first, (done.out + done.err).strip().splitlines()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_survives_the_death_of_its_driver_and_of_a_trial(killed_twice):
    storage, _, second = killed_twice
    result = result_in(second)
    assert (storage / "sweep" / pretended.DIED).exists()
    assert result["status"] == "finished"
    assert list(result["artefacts"]["trials"]) == ["trial-001", "trial-002", "trial-003"]
    assert "Traceback" not in "\n".join(second)


@pytest.mark.slow
def test_a_finished_trial_is_not_run_again(killed_twice):
    _, first, second = killed_twice
    assert any(line.startswith("trial-001: starts") for line in first)
    assert not any(line.startswith(("trial-001: starts", "trial-001: goes on")) for line in second)


@pytest.mark.slow
def test_no_trial_and_no_mlflow_child_is_there_twice_or_lost(killed_twice):
    result = result_in(killed_twice[2])
    children = children_of(result)
    assert len(children) == len(result["artefacts"]["trials"])
    status = {child.tags["trial"]: child.status for child in children}
    assert status == {"trial-001": "FINISHED", "trial-002": "FAILED", "trial-003": "FINISHED"}


@pytest.mark.slow
def test_how_each_trial_ended_is_recorded_with_its_reason(killed_twice):
    _, _, second = killed_twice
    trials = result_in(second)["artefacts"]["trials"]
    assert [trials[name]["outcome"] for name in sorted(trials)] == ["whole", "failed", "stopped"]
    assert "is not finite" in trials["trial-002"]["reason"]
    # By the first trial's score, which the sweep remembers over the death of its driver.
    assert trials["trial-003"]["reason"] == "asha at 8 of 24 images"


@pytest.mark.slow
def test_tables_plots_and_pictures_are_where_the_result_says(killed_twice):
    _, _, second = killed_twice
    result = result_in(second)
    for name in ("sweep", "best", "plots/parallel-coordinates-mae", "plots/learning-curves-mae", "plots/pareto-front"):
        assert Path(result["artefacts"][name]).stat().st_size > 0
    assert any(line.startswith("| 001 (own) |") for line in second)
    assert result["scores"]["sweep"]["images"] < result["scores"]["sweep"]["images_in_full"]


@pytest.fixture(scope="module")
def node_lost(real, segmentors, tmp_path_factory):
    """A sweep whose trials lay on one node, which was killed in the middle of them: a smaller one takes its place.

    The tiles are the other sweep's. Returns what the job said, and the placement groups left.
    """
    storage = tmp_path_factory.mktemp("node")
    ready = {"data__path": real[1].result["artefacts"]["tiles"], **segmentors}
    fields = SMALL | ready | {"tuning__trials": 2, "tuning__scheduler": "none"}
    fields["scaling__cpus_per_worker"] = "auto"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes(LONG_ENOUGH)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(SHARED_CLUSTER, cluster.address)
            with started(storage, **fields) as process:
                said = lines_until(process, "validation at 16 images")
                cluster.add_node(num_cpus=1)
                cluster.remove_node(node, allow_graceful=False)
                said += wait_for(process).splitlines()
        assert process.returncode == 0, "\n".join(said)
        return said, left_behind(cluster)
    finally:
        cluster.shutdown()


def left_behind(cluster):
    """States of a cluster's remaining placement groups."""
    groups = cluster.global_state.placement_group_table().values()
    return [group["state"] for group in groups if group["state"] != "REMOVED"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_node_that_is_lost_in_the_middle_costs_no_trial(node_lost):
    said, left = node_lost
    result = result_in(said)
    assert [trial["outcome"] for trial in result["artefacts"]["trials"].values()] == ["whole", "whole"]
    assert [child.status for child in children_of(result)] == ["FINISHED", "FINISHED"]
    assert left == []


@pytest.mark.slow
def test_trials_of_a_lost_node_go_on_from_their_last_report(node_lost):
    said, _ = node_lost
    result, seen = result_in(said), next(line for line in said if "validation at 16 images" in line)
    child = next(child for child in children_of(result) if seen.startswith(child.tags["trial"]))
    steps = steps_of(result, child)
    assert steps.count(8) == 1
    assert steps[-1] == 24


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"tuning__space": '{"method.alhpa1": {"low": 1, "high": 2}}'}, "did you mean method.alpha1?"),
        (
            {"tuning__space": '{"method.alpha1": {"low": 10, "high": 1}}'},
            ": low must be below high, not 10 to 1; exchange the bounds\n",
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
