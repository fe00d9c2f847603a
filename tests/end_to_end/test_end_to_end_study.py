"""A study as a user runs it: one row, then the others, one of them failing, and the table.

Then its rows as `evaluate.py` compares them, as any two runs, and every comparison that must not be made.
"""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from user import Finished, refused, run_here

from metgan_dist.tiles.tile_set import TileSet

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(1200)]

STUDY = """
title: Small
reference: pix2pix
scores: [mae, fid, label_fidelity]
paper_factor: {fid: 10}
notes: [Nothing to compare with.]
rows:
  - {name: diverges, label: Diverges, recipe: {method: {name: metgan}, training: {learning_rate: 1.0e+30}}}
  - name: pix2pix
    label: Pix2Pix
    recipe: {method: {name: pix2pix}}
    ticks: {Generator: U-Net, Segmentor: false}
    paper: {mae: 0.122, fid: 9.364}
  - name: shuffled
    label: Shuffled
    recipe: {method: {name: pix2pix}, data: {shuffled_labels: 0.5}}
    against: pix2pix
"""

FIRST, SECOND = "mine-pix2pix", "mine-shuffled"


def run_study(storage: object, segmentors: dict, **fields: object) -> Finished:
    """The small study, in this process; it trains the segmentor of its rows, but no judge."""
    fixed = {"scores__missing_weights": "skip", "tracking__run": "mine", "scaling__workers": 0}
    fixed["method__judge"] = segmentors["method__judge"]
    return run_here("run_study", storage, **{"study": Path(str(storage)) / "small.yaml", **fixed, **fields})


@pytest.fixture(scope="module")
def small_study(tmp_path_factory, ray_cluster, segmentors):
    """(storage, (first start, its result), second start) of the study `mine`: first one row, then all; one fails.

    The rows are the runs mine-diverges, mine-pix2pix, mine-shuffled; the last two share their test tiles but not their
    training labels.
    """
    storage = tmp_path_factory.mktemp("study")
    (storage / "small.yaml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("METGAN_WEIGHTS", raising=False)
        first = run_study(storage, segmentors, rows="pix2pix")
        return storage, (first, first.result), run_study(storage, segmentors)


def result_of(storage, name):
    return json.loads((storage / name / "result.json").read_text())


def test_a_failed_row_is_told_and_stops_no_other(small_study):
    storage, (first, _), done = small_study
    assert first.code == 0, first.out + first.err
    assert "1 to train, 1 at once" in first.out
    assert "[Pix2Pix] pix2pix  16/16 images" in first.out
    assert done.code == 1, done.out + done.err
    assert done.err.startswith("error: 1 of 3 rows failed: Diverges (")
    assert "not finite" in done.err
    assert "2 to train, 1 at once" in done.out
    result = result_of(storage, "mine")
    assert result["status"] == "failed"
    assert set(result["scores"]["test"]) == {"Pix2Pix", "Shuffled"}
    assert result["scores"]["test"]["Pix2Pix"]["mae"] == pytest.approx(
        result_of(storage, "mine-pix2pix")["scores"]["test"]["generated"]["mae"], rel=1e-3
    )


def test_rows_share_judge_segmentor_and_test_tiles(small_study):
    storage, _, _ = small_study
    shared = result_of(storage, "mine")["artefacts"]
    for name in ("pix2pix", "shuffled"):
        assert result_of(storage, f"mine-{name}")["artefacts"]["judge"] == shared["judge"]
    failed = result_of(storage, "mine-diverges")["recipe"]
    assert failed["method"]["segmentor"] == shared["segmentor"]
    assert failed["data"]["path"] == shared["tiles"]
    shuffled = result_of(storage, "mine-shuffled")["artefacts"]["tiles"]
    assert shuffled == shared["tiles-shuffled"] != shared["tiles"]


def test_table_has_the_paper_beside_and_says_what_is_missing(small_study):
    storage, _, done = small_study
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
    storage, _, _ = small_study
    result = result_of(storage, "mine")
    client = mlflow.MlflowClient(result["tracking_uri"])
    experiment = client.get_run(result["mlflow_run_id"]).info.experiment_id
    nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result['mlflow_run_id']}'")
    status = {run.info.run_name: run.info.status for run in nested}
    assert status == {"mine-diverges": "FAILED", "mine-pix2pix": "FINISHED", "mine-shuffled": "FINISHED"}
    files = {file.path for file in client.list_artifacts(result["mlflow_run_id"], "small")}
    assert {"small/table.md", "small/grid.png", "small/table.csv"} <= files


def test_started_again_it_trains_only_what_is_not_finished(small_study):
    _, (_, before), second = small_study
    assert "Pix2Pix: finished already" in second.out
    assert "[Pix2Pix]" not in second.out
    after = result_of(small_study[0], "mine")
    assert after["mlflow_run_id"] == before["mlflow_run_id"]
    assert after["artefacts"]["judge"] == before["artefacts"]["judge"]
    assert after["scores"]["test"]["Pix2Pix"] == before["scores"]["test"]["Pix2Pix"]


def test_a_study_that_cannot_run_is_refused_in_one_line(small_study, segmentors, monkeypatch):
    monkeypatch.delenv("METGAN_WEIGHTS", raising=False)
    storage, _, _ = small_study
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
        done = run_study(storage, segmentors, **fields)
        assert done.code == 2, done.out + done.err
        (line,) = done.err.strip().splitlines()
        assert all(culprit in line for culprit in culprits), line


@pytest.fixture
def storage(small_study):
    """Holds two runs of one method on the same test tiles, the second trained on shuffled labels."""
    return small_study[0]


def evaluate(storage, runs, **fields):
    return run_here("evaluate", storage, tiny=False, runs=runs, **{"scores__missing_weights": "skip", **fields})


def copy_of(storage, name, change):
    """A copy of the second run whose result was changed."""
    folder = storage / name
    shutil.copytree(storage / SECOND, folder)
    result = json.loads((folder / "result.json").read_text())
    result["run"] = name
    change(result)
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_two_runs_give_a_table_a_grid_and_an_mlflow_run(storage, monkeypatch):
    monkeypatch.delenv("METGAN_WEIGHTS", raising=False)
    trained = {name: json.loads((storage / name / "result.json").read_text()) for name in (FIRST, SECOND)}
    runs = f"{storage / FIRST},{trained[SECOND]['mlflow_run_id']}"
    done = evaluate(storage, runs, tracking__run="versus", scores__reference=SECOND)
    assert done.code == 0, done.out + done.err
    result = done.result
    assert result["job"] == "evaluate"
    assert result["artefacts"]["judge"] == trained[FIRST]["artefacts"]["judge"]
    assert f"judge: {result['artefacts']['judge']}" in done.out
    for name in (FIRST, SECOND):
        own = trained[name]["scores"]["test"]["generated"]
        for score in ("mae", "ssim", "label_fidelity"):
            assert result["scores"]["test"][name][score] == pytest.approx(own[score], rel=1e-3)
        assert trained[name]["resources"]["peak_rss_bytes"] > 1e8
        assert trained[name]["resources"]["images_per_second"] > 0
    folder = storage / "versus"
    per_tile = pd.read_parquet(folder / "scores.parquet")
    assert len(per_tile) == 2 * result["tiles"]["test"]
    assert {"method", "tile", "volume", "mae", "dice", "overlap_1"} <= set(per_tile)
    table = (folder / "table.md").read_text()
    assert "MAE ↓" in table
    assert "fid left out: no inception weights" in table
    assert table.strip() in done.out
    lines = list(csv.DictReader((folder / "table.csv").open()))
    assert [line["method"] for line in lines] == [FIRST, SECOND]
    assert float(lines[0]["mae_low"]) < float(lines[0]["mae"]) < float(lines[0]["mae_high"])
    assert lines[0]["mae_p_t_holm"]
    assert not lines[1]["mae_p_t_holm"]  # the reference
    assert (folder / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert r"\begin{tabular}" in (folder / "table.tex").read_text()
    client = mlflow.MlflowClient(result["tracking_uri"])
    logged = client.get_run(result["mlflow_run_id"])
    assert logged.info.status == "FINISHED"
    assert logged.data.tags[f"evaluated.{SECOND}"] == trained[SECOND]["mlflow_run_id"]
    assert logged.data.metrics[f"test/{SECOND}/mae"] == result["scores"]["test"][SECOND]["mae"]
    files = {file.path for file in client.list_artifacts(logged.info.run_id)}
    assert {"table.md", "table.csv", "table.tex", "grid.png", "scores.parquet", "significance.csv"} <= files


def test_scores_without_weights_stop_before_the_work(storage, monkeypatch):
    monkeypatch.delenv("METGAN_WEIGHTS", raising=False)
    before = set(storage.iterdir())
    refused(evaluate(storage, f"{FIRST},{SECOND}", scores__missing_weights="error"), "METGAN_WEIGHTS", "FID")
    assert set(storage.iterdir()) == before


def test_runs_that_cannot_be_compared_are_refused(storage, tmp_path):
    other = run_here("make_tiles", storage, tracking__run="tiles", tiles__test=0.4)
    assert other.code == 0, other.out + other.err
    tiles = other.result["artefacts"]["tiles"]
    copy_of(storage, "elsewhere", lambda result: result["artefacts"].update(tiles=tiles))
    copy_of(storage, "nuclei", lambda result: result["recipe"]["data"].update(anatomy="nuclei"))
    copy_of(storage, "classes", lambda result: result["recipe"]["data"].update(classes=3))
    copy_of(storage, "failed", lambda result: result.update(status="failed", reason="not finite"))
    (copy_of(storage, "running", lambda result: None) / "result.json").unlink()
    refused(evaluate(storage, f"{FIRST},elsewhere"), f"{FIRST} and elsewhere", "different test tiles")
    refused(evaluate(storage, f"{FIRST},nuclei"), "data.anatomy", "nuclei")
    refused(evaluate(storage, f"{FIRST},classes"), "data.classes", "classes", "3")
    refused(evaluate(storage, f"{FIRST},failed"), "failed", "not finite")
    refused(evaluate(storage, f"{FIRST},running"), "running", "not finished")
    refused(evaluate(storage, f"{FIRST},tiles"), "tiles", "make_tiles")
    refused(evaluate(storage, f"{FIRST},three"), "three", "no such run")
    refused(evaluate(storage, f"{FIRST},{FIRST}"), FIRST, "twice")
    refused(evaluate(storage, f"{FIRST},{SECOND}", scores__reference="sean"), "scores.reference", "sean")
    refused(evaluate(storage, f"{FIRST},{SECOND}", data__path=tmp_path), "data.path")
    refused(evaluate(storage, f"{FIRST},{SECOND}", scores__names="mae,beauty"), "scores.names", "beauty")
    refused(evaluate(storage, f"{FIRST},{SECOND}", scores__group="volume"), "scores.group")


def test_a_single_test_tile_is_too_few(storage):
    source = Path(json.loads((storage / SECOND / "result.json").read_text())["artefacts"]["tiles"])
    folder = storage / "one-test-tile"
    shutil.copytree(source, folder)
    index = pd.read_parquet(folder / "index.parquet")
    index.loc[TileSet.open(str(folder)).positions("test")[1:], "split"] = "gap"
    index.to_parquet(folder / "index.parquet", index=False)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["index_sha256"] = hashlib.sha256((folder / "index.parquet").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    copy_of(storage, "small", lambda result: result["artefacts"].update(tiles=str(folder)))
    refused(evaluate(storage, "small"), "1 test tile(s)", "two")
