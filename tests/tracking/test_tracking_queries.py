"""What MLflow is asked about runs and their data sets: found by digest in every experiment, deleted ones told apart."""

from metgan_dist.recipe import Tracking
from metgan_dist.tracking import LoggedDataset, RunLogger, logged_run, nested_runs, runs_with_dataset, start_run
from metgan_dist.tracking.server import connect

DIGEST = "0123456789abcdef" * 4


def logged(uri, tmp_path, name, context, experiment="metgan", tags=None, **changes):
    run_id = start_run(uri, Tracking(experiment=experiment), name, tags or {})
    with RunLogger(uri, run_id, tmp_path / "spool") as log:
        log.dataset(**{"name": "cells", "uri": "/t", "digest": DIGEST, "context": context, "rows": 5, **changes})
    return run_id


def test_a_run_comes_with_its_tags_and_data_sets(uri, tmp_path):
    run_id = logged(uri, tmp_path, "gan", "training", tags={"folder": "/runs/gan", "job": "train_metgan"})
    run = logged_run(uri, run_id)
    assert (run.id, run.name, run.deleted, run.folder, run.job) == (run_id, "gan", False, "/runs/gan", "train_metgan")
    assert run.datasets == (LoggedDataset("cells", DIGEST[:36], "training", "/t"),)


def test_runs_are_found_by_digest_and_context_in_all_experiments(uri, tmp_path):
    first = logged(uri, tmp_path, "gan", "training")
    second = logged(uri, tmp_path, "synth", "generated", experiment="another")
    logged(uri, tmp_path, "other", "training", digest="f" * 64)
    assert [run.id for run in runs_with_dataset(uri, DIGEST)] == [first, second]
    assert [run.id for run in runs_with_dataset(uri, DIGEST[:36])] == [first, second]
    assert [run.id for run in runs_with_dataset(uri, DIGEST, "generated")] == [second]
    assert runs_with_dataset(uri, "e" * 64) == []


def test_deleted_runs_are_told_apart_from_those_that_never_were(uri, tmp_path):
    run_id = logged(uri, tmp_path, "gan", "training")
    connect(uri).delete_run(run_id)
    assert logged_run(uri, run_id).deleted
    assert [run.deleted for run in runs_with_dataset(uri, DIGEST)] == [True]
    assert logged_run(uri, "0" * 32) is None
    assert logged_run(uri, "not an id") is None


def test_nested_runs_of_a_run(uri, tmp_path):
    parent = start_run(uri, Tracking(), "study", {})
    tags = {"mlflow.parentRunId": parent}
    folds = [start_run(uri, Tracking(), f"fold-{number}", tags) for number in range(3)]
    connect(uri).delete_run(folds[1])
    found = nested_runs(uri, parent)
    assert [run.id for run in found] == [folds[0], folds[2]]
    assert found[0].parent == parent


def test_a_data_set_that_others_logged_has_no_uri(uri):
    from mlflow.entities import Dataset, DatasetInput

    run_id = start_run(uri, Tracking(), "theirs", {})
    theirs = Dataset(name="csv", digest="12", source_type="local", source="not json")
    connect(uri).log_inputs(run_id, datasets=[DatasetInput(theirs, tags=[])])
    assert logged_run(uri, run_id).datasets == (LoggedDataset("csv", "12", "", ""),)
