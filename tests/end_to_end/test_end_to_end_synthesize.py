"""A synthetic set made by the job: killed in the middle and started again, it is the set of an undisturbed run."""

import json
import time
from pathlib import Path

import mlflow
import pytest
from untrained import write_untrained
from user import kill_tree, run_here, start

from metgan_dist.recipe import Recipe
from metgan_dist.tiles.tile_set import TileSet

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, ray_cluster):
    """(storage, recipe fields): tiles of the phantom, and an untrained generator and judge for them."""
    storage = tmp_path_factory.mktemp("synthesis")
    done = run_here("make_tiles", storage)
    assert done.code == 0, done.out + done.err
    fields = {"tiny": False, "synthesis__tiles": done.result["artefacts"]["tiles"], "synthesis__tissue": -0.95}
    method = {"width": 0.05, "segmentor_width": 0.05}
    for role, name in (("model", "metgan"), ("segmentor", "segmentor"), ("unconditional", "sifa")):
        tree = {"method": {**method, "name": name}, "tiles": {"size": [64]}}
        recipe = Recipe.model_validate(tree)
        write_untrained(storage / role, recipe)
    return storage, {**fields, "synthesis__model": storage / "model", "tracking__patience": 5}


def markers(storage):
    return {path.name: path.stat().st_mtime_ns for path in Path(storage).glob("set/tiles/shards/*.json")}


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """(fields, finished job): 120 tiles, made by two replicas."""
    fields = {**prepared[1], "synthesis__count": 120, "synthesis__shard": 4, "tracking__run": "set"}
    done = run_here("synthesize", tmp_path_factory.mktemp("whole"), **fields, synthesis__replicas=2)
    assert done.code == 0, done.out + done.err
    return fields, done


def test_a_set_has_its_tiles_pictures_and_place_in_mlflow(whole):
    fields, whole = whole
    result = whole.result
    made = TileSet.open(result["artefacts"]["dataset"])
    assert f"digest: {made.digest}" in whole.out
    assert len(made.positions("train")) == result["tiles"]["train"] == 120
    assert made.load(0)["tumour"].shape == (1, 64, 64)
    assert set(made.index["volume"].iloc[made.positions("train")]) <= set(
        TileSet.open(fields["synthesis__tiles"]).index.query("split == 'train'")["volume"]
    )
    for name in ("preview", "summary", "plot"):
        assert Path(result["artefacts"][name]).stat().st_size > 100
    summary = json.loads(Path(result["artefacts"]["summary"]).read_text())
    assert summary["lesions"]["per_tile"]["synthetic"]["mean"] >= 1
    logged = mlflow.MlflowClient(result["tracking_uri"]).get_run(result["mlflow_run_id"])
    inputs = {put.tags[0].value: put.dataset for put in logged.inputs.dataset_inputs}
    assert inputs["generated"].digest == made.digest[:36]
    assert inputs["source"].digest == made.manifest["synthesis"]["tiles"]["digest"][:36]
    assert logged.data.tags["generator.sha256"] == made.manifest["synthesis"]["model"]["sha256"]


@pytest.mark.slow
def test_killed_and_started_again_it_makes_the_same_set(whole, tmp_path):
    fields, whole = whole
    made = TileSet.open(whole.result["artefacts"]["dataset"])
    job = start("synthesize", tmp_path / "killed", **fields, synthesis__replicas=1)
    try:
        deadline = time.monotonic() + 240
        while len(markers(tmp_path / "killed")) < 2:
            assert job.poll() is None, job.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        kill_tree(job)
    before = markers(tmp_path / "killed")
    assert 2 <= len(before) < 30
    again = run_here("synthesize", tmp_path / "killed", **{**fields, "synthesis__replicas": 1})
    assert again.code == 0, again.out + again.err
    assert "tiles are there already" in again.out
    after = markers(tmp_path / "killed")
    assert {name: after[name] for name in before} == before
    assert sorted(after) == [f"{number:07d}.json" for number in range(30)]
    assert TileSet.open(again.result["artefacts"]["dataset"]).digest == made.digest


def test_what_cannot_be_made_is_one_line(prepared, tmp_path):
    storage, fields = prepared
    empty = tmp_path / "bank"
    empty.mkdir()
    refusals = {
        "synthesis.labels": {"synthesis__drawn": 1, "synthesis__labels": empty},
        "synthesis.model": {"synthesis__model": storage / "unconditional"},
        "synthesis.anatomies": {"synthesis__anatomies": "nowhere"},
        "synthesis.gate": {
            "synthesis__gate": 1.0,
            "synthesis__segmentor": storage / "segmentor",
            "synthesis__count": 4,
            "tracking__run": "gated",
        },
    }
    for culprit, changes in refusals.items():
        done = run_here("synthesize", tmp_path / "out", **{**fields, **changes})
        (line,) = done.err.strip().splitlines()
        assert done.code == 2
        assert line.startswith(f"error: {culprit}"), line
    assert [path.name for path in (tmp_path / "out").glob("*/run.json")] == ["run.json"]
    failed = json.loads((tmp_path / "out" / "gated" / "result.json").read_text())
    assert failed["status"] == "failed"
    assert failed["tiles"]["rejected"] == 4
    assert Path(failed["artefacts"]["rejected"]).stat().st_size > 100
