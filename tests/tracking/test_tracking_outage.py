"""A real server that dies while a run logs to it: training goes on, and nothing is missing afterwards."""

import shutil
import time

from metgan_dist.recipe import Tracking
from metgan_dist.tracking import RunLogger, check_server, end_run, replay, start_run
from metgan_dist.tracking.server import connect


def history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in connect(uri).get_metric_history(run_id, name))


def test_server_killed_and_restarted_while_logging_loses_nothing_and_stops_nobody(server, tmp_path):
    check_server(server.uri)
    run_id = start_run(server.uri, Tracking(), "outage", {})
    lines: list[str] = []
    log = RunLogger(server.uri, run_id, tmp_path, patience=60, report=lines.append)
    slowest, begin = 0.0, int(time.time() * 1000)
    for step in range(160):
        called = time.monotonic()
        log.metrics({"loss": step / 4}, step)
        if step == 90:
            log.png(b"drawn while the server was away", "grids/away.png")
        slowest = max(slowest, time.monotonic() - called)
        if step == 50:
            time.sleep(1.5)  # some of it has arrived
            assert len(history(server.uri, run_id, "loss")) > 0
            server.kill()
        if step == 120:
            time.sleep(2)
            assert any("does not answer (Connection refused)" in line for line in lines)
            server.launch()
        time.sleep(0.01)
    end = int(time.time() * 1000)
    assert log.close()
    assert slowest < 1
    assert history(server.uri, run_id, "loss") == [(step, step / 4) for step in range(160)]
    times = [metric.timestamp for metric in connect(server.uri).get_metric_history(run_id, "loss")]
    assert begin <= min(times)
    assert max(times) <= end  # when it was logged, not when it arrived
    assert "answers again" in lines[-1]
    assert (server.folder / "artifacts").rglob("away.png").__next__().read_bytes().startswith(b"drawn while")


def test_server_that_stays_away_leaves_a_spool_which_a_replay_delivers(server, tmp_path):
    server.wait()
    run_id = start_run(server.uri, Tracking(), "spool", {})
    server.kill()
    lines: list[str] = []
    log = RunLogger(server.uri, run_id, tmp_path, patience=1, report=lines.append)
    for step in range(20):
        log.metrics({"loss": step}, step)
    log.text("seed: 1", "recipe.yaml")
    log.dataset("cells", "tiles/manifest.json", "d" * 64, "training", 7)
    started = time.monotonic()
    assert not log.close()
    assert not end_run(
        server.uri, run_id, "FAILED", "the node was taken away", spool=tmp_path, patience=1, report=lines.append
    )
    assert time.monotonic() - started < 10
    kept = [line for line in lines if "kept in" in line]
    assert kept[0].startswith(f"tracking: 22 entries could not be sent to {server.uri} (Connection refused)")
    server.launch()
    server.wait()
    assert replay(server.uri, run_id, tmp_path, report=lines.append)
    assert history(server.uri, run_id, "loss") == [(step, step) for step in range(20)]
    run = connect(server.uri).get_run(run_id)
    assert (run.info.status, run.data.tags["failure"]) == ("FAILED", "the node was taken away")
    assert run.inputs.dataset_inputs[0].dataset.digest == "d" * 36
    assert [item.path for item in connect(server.uri).list_artifacts(run_id)] == ["recipe.yaml"]
    assert list((tmp_path / run_id).iterdir()) == []


def test_a_store_that_is_removed_while_a_run_logs_to_it_is_one_line_and_no_traceback(tmp_path, capfd):
    """As by `rm -r` of storage.path while a run is stopped: MLflow's database and what waits for it are gone."""
    storage = tmp_path / "storage"
    uri, spool = f"sqlite:///{storage}/mlflow.db", storage / "run" / "spool"
    check_server(uri)
    run_id = start_run(uri, Tracking(), "removed", {})
    lines: list[str] = []
    log = RunLogger(uri, run_id, spool, patience=60, report=lines.append)
    log.metrics({"loss": 1.0}, 0)
    while not history(uri, run_id, "loss"):
        time.sleep(0.1)
    shutil.rmtree(storage)
    log.metrics({"loss": 2.0}, 1)
    started = time.monotonic()
    assert not log.close()
    assert time.monotonic() - started < 30
    assert lines == [f"tracking: {spool / run_id} was removed while it was in use; 1 entries are lost"]
    assert "Traceback" not in "".join(capfd.readouterr())
