"""Runs in a local store: created, found, failed with a reason, continued."""

from pathlib import Path

import pytest

from metgan_dist.errors import UserError
from metgan_dist.recipe import Tracking
from metgan_dist.tracking import STOPPED, end_run, find_run, resume_run, run_page, start_run
from metgan_dist.tracking.server import connect


def test_run_has_its_name_and_tags_and_artefacts_beside_the_database(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    run = connect(uri).get_run(start_run(uri, Tracking(), "liver", {"git": "abc123", "command": "x wJalrXUtnFEMI"}))
    assert run.info.run_name == "liver"
    assert run.info.status == "RUNNING"
    assert run.data.tags["git"] == "abc123"
    assert run.data.tags["command"] == "x ***"
    assert run.info.artifact_uri.startswith(str(tmp_path / "mlartifacts"))


def test_new_experiment_keeps_artefacts_where_the_recipe_says(uri, tmp_path):
    tracking = Tracking(experiment="elsewhere", artifacts=str(tmp_path / "there"))
    run = connect(uri).get_run(start_run(uri, tracking, "a", {}))
    assert Path(run.info.artifact_uri).is_relative_to(tmp_path / "there")


def test_latest_run_of_a_name_is_found_and_deleted_ones_are_not(uri):
    tracking = Tracking(experiment="search")
    assert find_run(uri, tracking, "a") is None
    first = start_run(uri, tracking, "it's a run", {})
    second = start_run(uri, tracking, "it's a run", {})
    start_run(uri, tracking, "another", {})
    assert find_run(uri, tracking, "it's a run") == second
    connect(uri).delete_run(second)
    assert find_run(uri, tracking, "it's a run") == first


def test_failed_run_carries_its_reason_and_loses_it_when_continued(uri, run_id, tmp_path):
    assert end_run(uri, run_id, "FAILED", "loss is nan at step 7", spool=tmp_path / "spool")
    run = connect(uri).get_run(run_id)
    assert (run.info.status, run.data.tags["failure"]) == ("FAILED", "loss is nan at step 7")
    assert run.info.end_time >= run.info.start_time
    resume_run(uri, run_id)
    run = connect(uri).get_run(run_id)
    assert run.info.status == "RUNNING"
    assert "failure" not in run.data.tags
    assert end_run(uri, run_id, "FINISHED", spool=tmp_path / "spool")
    assert connect(uri).get_run(run_id).info.status == "FINISHED"


def test_unknown_and_deleted_runs_and_experiments_are_one_line(uri, run_id):
    with pytest.raises(UserError, match=r"^tracking\.uri .*0123abcd"):
        resume_run(uri, "0123abcd" * 4)
    connect(uri).delete_run(run_id)
    with pytest.raises(UserError, match=r"^tracking\.run .*was deleted"):
        resume_run(uri, run_id)
    connect(uri).delete_experiment(connect(uri).get_experiment_by_name("metgan").experiment_id)
    with pytest.raises(UserError, match=r"^tracking\.experiment metgan: .*restore"):
        start_run(uri, Tracking(), "again", {})


def test_the_page_of_a_run_is_that_of_a_training(uri, run_id):
    assert run_page(uri, run_id) == (
        f"http://127.0.0.1:5000/#/experiments/1/runs/{run_id}?workflowType=machine_learning"
    )


def test_a_stopped_run_does_not_look_failed_and_can_go_on(uri, run_id, tmp_path):
    assert end_run(uri, run_id, STOPPED, "stopped by a signal", spool=tmp_path / "spool")
    run = connect(uri).get_run(run_id)
    assert (run.info.status, run.data.tags["stopped"]) == ("SCHEDULED", "stopped by a signal")
    assert "failure" not in run.data.tags
    resume_run(uri, run_id)
    assert "stopped" not in connect(uri).get_run(run_id).data.tags


def test_an_experiment_is_said_to_be_of_trainings_also_one_that_was_there(uri):
    for name in ("new", "old"):
        if name == "old":
            connect(uri).create_experiment(name)
        start_run(uri, Tracking(experiment=name), "a", {})
        assert connect(uri).get_experiment_by_name(name).tags["mlflow.experimentKind"] == "custom_model_development"
