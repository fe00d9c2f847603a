"""What is logged arrives, complete and unchanged, in a local store and in an object store."""

import json
import math
import time

import boto3
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from moto.server import ThreadedMotoServer

from metgan_dist.recipe import Tracking
from metgan_dist.tracking import RunLogger, replay, start_run
from metgan_dist.tracking.delivery import DOUBTS
from metgan_dist.tracking.journal import Journal
from metgan_dist.tracking.server import connect


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


def test_every_number_arrives_once_with_its_step_value_and_time(uri, run_id, spool):
    start = int(time.time() * 1000)
    with RunLogger(uri, run_id, spool) as log:
        for step in range(1500):
            log.metrics({"cycle": step / 7}, step, prefix="loss/")
    end = int(time.time() * 1000)
    history = sorted(connect(uri).get_metric_history(run_id, "loss/cycle"), key=lambda metric: metric.step)
    assert [(metric.step, metric.value) for metric in history] == [(step, step / 7) for step in range(1500)]
    times = [metric.timestamp for metric in history]
    assert times == sorted(times)
    assert start <= times[0]
    assert times[-1] <= end


def test_more_numbers_than_one_call_takes_and_values_that_are_not_finite(uri, run_id, spool):
    with RunLogger(uri, run_id, spool) as log:
        log.metrics({f"score {k}": k for k in range(1001)}, 0)
        log.metrics({"nan": math.nan, "odd (name) µ": 1.0}, 0)
    metrics = connect(uri).get_run(run_id).data.metrics
    assert len(metrics) == 1003
    assert math.isnan(metrics["nan"])
    assert metrics["odd _name_ µ"] == 1


def test_texts_pictures_and_files_become_artefacts(uri, run_id, spool, tmp_path):
    (tmp_path / "result.json").write_text("{}")
    with RunLogger(uri, run_id, spool) as log:
        log.text("secret: open-sesame\nseed: 1", "recipe.yaml")
        log.png(b"picture", "grids/step-5.png")
        log.file(tmp_path / "result.json", "results")
        with pytest.raises(FileNotFoundError):
            log.file(tmp_path / "missing.json")
    client = connect(uri)
    assert {item.path for item in client.list_artifacts(run_id)} == {"recipe.yaml", "grids", "results"}
    folder = tmp_path / "mlartifacts" / run_id / "artifacts"
    assert (folder / "recipe.yaml").read_text() == "secret: ***\nseed: 1"
    assert (folder / "grids/step-5.png").read_bytes() == b"picture"
    assert (folder / "results/result.json").read_text() == "{}"


def test_tags_are_set_over_those_that_a_run_has_and_secrets_hidden(uri, run_id, spool):
    with RunLogger(uri, run_id, spool) as log:
        log.tags({"mlflow.note.content": "going on", "aws_secret_key": "wJalrXUtnFEMI"})
        log.tags({"mlflow.note.content": "over " + "x" * 9000})
    tags = connect(uri).get_run(run_id).data.tags
    assert tags["aws_secret_key"] == "***"
    assert tags["mlflow.note.content"].startswith("over x")
    assert len(tags["mlflow.note.content"]) == 8000


def test_continued_run_with_other_settings_shows_both(uri, run_id, spool):
    with RunLogger(uri, run_id, spool) as log:
        log.params({"training.epochs": 2, "tiles.size": 64} | {f"many.{k}": k for k in range(120)})
    with RunLogger(uri, run_id, spool) as log:
        log.params({"training.epochs": 4, "tiles.size": 64, "new": "x" * 9000})
    data = connect(uri).get_run(run_id).data
    assert (data.params["training.epochs"], data.params["tiles.size"], data.params["many.119"]) == ("2", "64", "119")
    assert data.tags["changed.training.epochs"] == "4"
    assert "changed.tiles.size" not in data.tags
    assert len(data.params["new"]) == 6000


def test_runs_that_used_a_data_set_are_found_by_its_digest(uri, run_id, spool):
    digest = "0123456789abcdef" * 4
    with RunLogger(uri, run_id, spool) as log:
        log.dataset("cells", "s3://bucket/tiles/manifest.json", digest, "training", 123)
    other = start_run(uri, Tracking(), "without", {})
    experiment = connect(uri).get_run(other).info.experiment_id
    found = connect(uri).search_runs([experiment], filter_string=f"dataset.digest = '{digest[:36]}'")
    assert [run.info.run_id for run in found] == [run_id]
    [used] = found[0].inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.source_type) == ("cells", "metgan_tiles")
    assert json.loads(used.dataset.source) == {"uri": "s3://bucket/tiles/manifest.json"}
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]


def test_system_metrics_are_sampled(uri, run_id, spool, monkeypatch):
    monkeypatch.setattr("metgan_dist.tracking.logger.SYSTEM_SECONDS", 0.05)
    with RunLogger(uri, run_id, spool, system_metrics=True):
        time.sleep(0.5)
    metrics = connect(uri).get_run(run_id).data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100
    assert metrics["system/process_memory_usage_megabytes"] > 10


def test_what_mlflow_refuses_is_kept_and_does_not_stop_the_rest(uri, run_id, spool):
    lines: list[str] = []
    with RunLogger(uri, run_id, spool, report=lines.append) as log:
        log.metrics({"before": 1}, 0)
        log.metrics({"../up": 1}, 0)
        log.metrics({"after": 1}, 0)
    assert set(connect(uri).get_run(run_id).data.metrics) == {"before", "after"}
    assert len(lines) == 1
    assert "refused metrics" in lines[0]
    assert json.loads((spool / run_id / "refused.jsonl").read_text())["values"] == {"../up": 1}


class Moody:
    """A client whose server says BAD_REQUEST the first `times`, as MLflow does when its database has no connection."""

    def __init__(self, times):
        self.times, self.stored = times, []

    def log_batch(self, run_id, metrics, synchronous):
        if self.times > 0:
            self.times -= 1
            raise MlflowException("QueuePool limit of size 5 overflow 10 reached", error_code=BAD_REQUEST)
        self.stored += [(metric.key, metric.value) for metric in metrics]


@pytest.mark.parametrize(("times", "stored"), [(DOUBTS - 1, [("loss", 1)]), (DOUBTS, [])])
def test_a_database_out_of_sorts_is_tried_again_before_its_answer_is_believed(spool, monkeypatch, times, stored):
    monkeypatch.setattr("metgan_dist.tracking.logger.FIRST_WAIT", 0.01)
    client = Moody(times)
    monkeypatch.setattr("metgan_dist.tracking.delivery.connect", lambda uri: client)
    with RunLogger("http://moody", "0" * 32, spool, report=[].append) as log:
        log.metrics({"loss": 1}, 0)
    assert client.stored == stored
    assert (spool / ("0" * 32) / "refused.jsonl").exists() == (not stored)


def leave_behind(spool, run_id, *entries):
    journal = Journal.create(spool / run_id)
    for entry in entries:
        journal.append({"time": 1000, **entry})
    journal.close()


METRIC = {"kind": "metrics", "values": {"left": 5}, "step": 3}
END = {"kind": "end", "status": "FAILED", "reason": "killed"}


def test_next_logger_of_the_run_sends_what_was_left_but_does_not_end_it(uri, run_id, spool):
    leave_behind(spool, run_id, METRIC, END)
    RunLogger(uri, run_id, spool).close()
    run = connect(uri).get_run(run_id)
    assert (run.data.metrics, run.info.status) == ({"left": 5}, "RUNNING")
    assert list((spool / run_id).iterdir()) == []


def test_replay_of_an_ended_run_sends_its_end_too(uri, run_id, spool):
    leave_behind(spool, run_id, METRIC, END)
    assert replay(uri, run_id, spool)
    run = connect(uri).get_run(run_id)
    assert (run.data.metrics, run.info.status, run.info.end_time) == ({"left": 5}, "FAILED", 1000)
    assert run.data.tags["failure"] == "killed"


def test_entries_sent_twice_are_stored_once(uri, run_id, spool):
    dataset = {"kind": "dataset", "name": "a", "uri": "b", "digest": "c", "context": "training", "rows": 1}
    for _ in range(2):  # as when a connection breaks between the server's commit and its answer
        leave_behind(spool, run_id, METRIC, dataset)
    assert replay(uri, run_id, spool)
    client = connect(uri)
    assert len(client.get_metric_history(run_id, "left")) == 1
    assert len(client.get_run(run_id).inputs.dataset_inputs) == 1


def test_artefacts_go_to_object_storage(uri, spool, monkeypatch):
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        for name, value in {
            "ENDPOINT_URL": endpoint,
            "ACCESS_KEY_ID": "me",
            "SECRET_ACCESS_KEY": "open-sesame",
        }.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="artefacts")
        tracking = Tracking(experiment="on-s3", artifacts="s3://artefacts/mlflow")
        run_id = start_run(uri, tracking, "s3", {})
        with RunLogger(uri, run_id, spool) as log:
            log.png(b"picture", "grids/a.png")
        key = f"mlflow/{run_id}/artifacts/grids/a.png"
        assert s3.get_object(Bucket="artefacts", Key=key)["Body"].read() == b"picture"
    finally:
        server.stop()
