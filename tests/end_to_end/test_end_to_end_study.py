"""A study as a user runs it: rows trained side by side, one of them failing, the table, and the second start."""

import csv
import json

import mlflow
import pytest
from user import run_study

pytestmark = pytest.mark.usefixtures("ray_cluster")


def result_of(storage, name):
    return json.loads((storage / name / "result.json").read_text())


def test_a_failed_row_is_told_and_stops_no_other(small_study):
    storage, done = small_study
    assert done.code == 1, done.out + done.err
    assert done.err.startswith("error: 1 of 3 rows failed: Diverges (")
    assert "not finite" in done.err
    assert "3 to train, 3 at once" in done.out
    assert "[Pix2Pix] pix2pix  16/16 images" in done.out
    result = result_of(storage, "mine")
    assert result["status"] == "failed"
    assert set(result["scores"]["test"]) == {"Pix2Pix", "Shuffled"}
    assert result["scores"]["test"]["Pix2Pix"]["mae"] == pytest.approx(
        result_of(storage, "mine-pix2pix")["scores"]["test"]["generated"]["mae"], rel=1e-3
    )


def test_rows_share_judge_segmentor_and_test_tiles(small_study):
    storage, _ = small_study
    shared = result_of(storage, "mine")["artefacts"]
    for name in ("pix2pix", "shuffled"):
        assert result_of(storage, f"mine-{name}")["artefacts"]["judge"] == shared["judge"]
    failed = result_of(storage, "mine-diverges")["recipe"]
    assert failed["method"]["segmentor"] == shared["segmentor"]
    assert failed["data"]["path"] == shared["tiles"]
    shuffled = result_of(storage, "mine-shuffled")["artefacts"]["tiles"]
    assert shuffled == shared["tiles-shuffled"] != shared["tiles"]


def test_table_has_the_paper_beside_and_says_what_is_missing(small_study):
    storage, done = small_study
    table = (storage / "mine" / "small" / "table.md").read_text()
    assert table.strip() in done.out
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in table.splitlines()
        if line.startswith("| ")
    }
    assert lines["Method"] == ["images", "training", "images/s", "memory", "GPU memory"]  # the second table
    assert "| Pix2Pix  | U-Net     |" in table
    assert "93.64" in table
    assert "Diverges failed: metgan: step" in table
    assert "fid left out" in table
    assert "Shuffled - Pix2Pix" in lines
    assert "Nothing to compare with." in table
    assert str(storage) not in table
    rows = {row["method"]: row for row in csv.DictReader((storage / "mine" / "small" / "table.csv").open())}
    assert float(rows["Pix2Pix"]["peak_rss_bytes"]) > 1e8
    assert rows["Pix2Pix"]["images"] == "16"
    assert rows["Diverges"]["mae"] == ""


def test_mlflow_has_the_rows_under_the_study(small_study):
    storage, _ = small_study
    result = result_of(storage, "mine")
    client = mlflow.MlflowClient(result["tracking_uri"])
    experiment = client.get_run(result["mlflow_run_id"]).info.experiment_id
    nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result['mlflow_run_id']}'")
    status = {run.info.run_name: run.info.status for run in nested}
    assert status == {"mine-diverges": "FAILED", "mine-pix2pix": "FINISHED", "mine-shuffled": "FINISHED"}
    files = {file.path for file in client.list_artifacts(result["mlflow_run_id"], "small")}
    assert {"small/table.md", "small/grid.png", "small/table.csv"} <= files


def test_started_again_it_trains_only_what_is_not_finished(small_study, monkeypatch):
    monkeypatch.delenv("METGAN_WEIGHTS", raising=False)
    storage, _ = small_study
    first = result_of(storage, "mine")
    again = run_study(storage)
    assert again.code == 1, again.out + again.err
    assert "Pix2Pix: finished already" in again.out
    assert "1 to train, 1 at once" in again.out
    assert "[Diverges] continuing run mine-diverges" in again.out
    assert "[Pix2Pix]" not in again.out
    second = result_of(storage, "mine")
    assert second["mlflow_run_id"] == first["mlflow_run_id"]
    assert second["scores"]["test"] == first["scores"]["test"]


def test_a_study_that_cannot_run_is_refused_in_one_line(small_study, monkeypatch):
    monkeypatch.delenv("METGAN_WEIGHTS", raising=False)
    storage, _ = small_study
    for fields, *culprits in (
        ({"tracking__run": "new", "scores__missing_weights": "error"}, "METGAN_WEIGHTS", "FID"),
        ({"training__max_steps": 4}, "tracking.run", "training.max_steps"),
        (
            {"tracking__run": "new", "data__path": result_of(storage, "mine")["artefacts"]["tiles"]},
            "data.path",
            "shuffled_labels",
        ),
        ({"study": "image-synthesis", "tracking__run": "new"}, "row spade", "METGAN_WEIGHTS"),
        ({"study": "imagesynthesis", "tracking__run": "new"}, "--study", "image-synthesis"),
    ):
        done = run_study(storage, **fields)
        assert done.code == 2, done.out + done.err
        (line,) = done.err.strip().splitlines()
        assert all(culprit in line for culprit in culprits), line
