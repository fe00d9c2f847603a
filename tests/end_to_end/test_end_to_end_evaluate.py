"""Two trained runs compared as a user does it, and every comparison that must not be made."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from user import run_here

from metgan_dist.tiles.tile_set import TileSet

pytestmark = pytest.mark.usefixtures("ray_cluster")


FIRST, SECOND = "mine-pix2pix", "mine-shuffled"


@pytest.fixture
def storage(small_study):
    """Holds two runs of one method on the same test tiles, the second trained on shuffled labels."""
    return small_study[0]


def evaluate(storage, runs, **fields):
    return run_here("evaluate", storage, tiny=False, runs=runs, **{"scores__missing_weights": "skip", **fields})


def refused(finished, *culprits):
    lines = finished.err.strip().splitlines()
    assert finished.code == 2, finished.out + finished.err
    assert len(lines) == 1, finished.err
    assert lines[0].startswith("error: ")
    for culprit in culprits:
        assert str(culprit) in lines[0], lines[0]


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
    assert f"judge of label fidelity: {result['artefacts']['judge']}" in done.out
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
