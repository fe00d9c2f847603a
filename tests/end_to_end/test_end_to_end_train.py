"""The main job from volumes to scores, as a user runs it."""

import re
from pathlib import Path

import mlflow
import numpy as np
import pytest
import tifffile
import torch
from user import refused, run, run_here


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(storage, job): every part of the job, as a process, on a cluster of its own."""
    storage = tmp_path_factory.mktemp("runs")
    here = {"scaling__workers": 0, "scaling__cpus_per_worker": 0.5}  # of one thread, which other tests leave a core for
    return storage, run("train_metgan", storage, tracking__run="first", **here)


def test_result_tells_what_was_done(finished):
    _, done = finished
    assert done.code == 0, done.out + done.err
    result = done.result
    assert result["status"] == "finished"
    assert result["job"] == "train_metgan"
    assert result["tiles"]["train"] > 0
    assert {"tiles", "segmentor", "judge", "training", "scores"} <= result["timings"].keys()
    for name in ("generated", "identity", "affine"):
        assert {"mae", "msd", "ssim", "psnr", "correlation", "label_fidelity"} <= result["scores"]["test"][name].keys()
    assert result["scores"]["test"]["tiles"] == result["tiles"]["test"]
    assert result["recipe"]["method"]["width"] == 0.05
    assert "error" not in done.err.lower()


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_of_ray_trains_and_what_is_said_is_ours_and_readable(finished, segmentors):
    storage, by_the_job = finished
    tiles = by_the_job.result["artefacts"]["tiles"]
    done = run_here("train_metgan", storage, tracking__run="by-ray", data__path=tiles, **segmentors)
    assert done.code == 0, done.out + done.err
    assert "metgan  16/16 images" in done.out
    assert done.result["resources"]["images_per_second"] > 0
    for said in (done, by_the_job):
        assert "/s " in said.out
        assert "(RayTrainWorker" not in said.out + said.err
        assert "(pid=" not in said.out + said.err


def test_mlflow_has_the_run(finished):
    _, done = finished
    result = done.result
    client = mlflow.MlflowClient(result["tracking_uri"])
    run_ = client.get_run(result["mlflow_run_id"])
    assert run_.info.status == "FINISHED"
    assert run_.data.params["method.alpha3"] == "20.0"
    steps = {metric.step for metric in client.get_metric_history(run_.info.run_id, "generators/pair")}
    assert steps == {2, 4, 6, 8, 10, 12, 14, 16}
    assert "validation/mae" in run_.data.metrics
    assert "test/generated/mae" in run_.data.metrics
    assert run_.inputs.dataset_inputs[0].dataset.source_type == "metgan_tiles"
    names = {file.path for file in client.list_artifacts(run_.info.run_id)}
    assert {"recipe.yaml", "grids", "result.json"} <= names


def test_generator_loads_in_a_notebook(finished):
    storage, _ = finished
    from metgan_dist import load_generator

    generator = load_generator(str(storage / "first"))
    image = generator.translate(
        {"anatomy": torch.zeros(1, 1, 64, 64), "label": torch.zeros(1, 64, 64, dtype=torch.long)}
    )
    assert image.shape == (1, 1, 64, 64)
    assert image.abs().max() <= 1


@pytest.mark.usefixtures("ray_cluster")
def test_finished_run_started_again_does_no_work_twice(finished):
    storage, done = finished
    again = run_here("train_metgan", storage, tracking__run="first")
    assert again.code == 0, again.out + again.err
    assert "trained already" in again.out
    assert again.result["mlflow_run_id"] == done.result["mlflow_run_id"]
    assert again.result["scores"]["test"] == done.result["scores"]["test"]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("fields", "culprit"),
    [
        ({"data__classes": 3}, "data.classes: 3 does not fit the tiles in"),
        ({"tiles__size": 128}, "tiles.size"),
        ({"method__name": "pix3pix"}, "did you mean pix2pix?"),
        ({"method__name": "spade"}, "METGAN_WEIGHTS"),
    ],
)
def test_flags_that_do_not_fit_finished_tiles_are_refused(finished, monkeypatch, fields, culprit):
    monkeypatch.delenv("METGAN_WEIGHTS", raising=False)
    storage, done = finished
    wrong = run_here("train_metgan", storage, data__path=done.result["artefacts"]["tiles"], **fields)
    assert wrong.code == 2, wrong.out + wrong.err
    assert culprit in wrong.err
    assert wrong.err.count("\n") == 1


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("field", ["segmentor", "judge"])
def test_a_checkpoint_of_another_method_is_no_segmentor_before_any_work(finished, field):
    storage, done = finished
    generator = done.result["artefacts"]["best_checkpoint"]
    wrong = run_here("train_metgan", storage, **{f"method__{field}": generator})
    assert wrong.code == 2, wrong.out + wrong.err
    assert f"method.{field}: {generator}: a checkpoint of metgan, not of a segmentor" in wrong.err
    assert wrong.err.count("\n") == 1
    assert "tiles: " not in wrong.out
    assert "training a segmentor" not in wrong.out


def test_cells_in_3d_are_planned_on_volumes_as_thin_as_theirs(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    voxels = np.random.default_rng(0).integers(100, 1000, (26, 192, 128)).astype("uint16")
    for name in ("autofluorescence", "signal", "label"):
        own = (voxels > 990).astype("uint8") if name == "label" else voxels
        tifffile.imwrite(folder / f"{name}.tif", own, photometric="minisblack", metadata={"axes": "ZYX"})
    (folder / "dataset.yaml").write_text(
        "anatomy: autofluorescence\ntumour: signal\nvolumes:\n"
        "  - id: one\n    path: {autofluorescence: autofluorescence.tif, signal: signal.tif}\n    label: label.tif\n"
    )
    asked = {"tiny": False, "data__path": folder}
    done = run_here("train_metgan", tmp_path / "none", "--dry-run", "--recipe", "cells-3d", **asked)
    assert done.code == 0, done.err
    assert "kind: crop" in done.out
    assert "augment: affine" in done.out
    # Crops of 24 x 64 x 64, one, five and three along the axes, of two images of 16 bits and a label of 8.
    assert "tiles: at most 15 of 1 volume(s), 0.00737 GB before compression" in done.out
    wide = run_here("train_metgan", tmp_path / "none", "--recipe", "cells-3d", tiles__size="32,64,64", **asked)
    refused(wide, "tiles.size: 32x64x64 is larger than volume 'one'")
    assert not (tmp_path / "none").exists()


def test_dry_run_prints_recipe_and_plan_and_starts_nothing(tmp_path):
    done = run_here("train_metgan", tmp_path / "none", "--dry-run")
    assert done.code == 0
    assert "alpha3: 20" in done.out
    assert "plan: 1 worker(s)" in done.out
    assert re.search(r"^tiles: at most \d+ of \d+ volume\(s\), [\d.e-]+ GB before compression$", done.out, re.M)
    assert re.search(r"^training: at most \d+ images in steps of \d+ a worker$", done.out, re.M)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "job", sorted(path.stem for path in Path(__file__).resolve().parents[2].joinpath("jobs").glob("*.py"))
)
def test_every_job_keeps_the_contract_of_help(job, tmp_path):
    done = run_here(job, tmp_path, "--help")
    assert done.code == 0
    assert "--tracking.run" in done.out
    assert done.out.startswith(f"usage: {job}.py")


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("recipe", ["brain-dwi", "cardiac"])
def test_tiles_of_the_other_modalities(recipe, tmp_path):
    shape = {"brain-dwi": "20,128,128", "cardiac": "96,128,128"}[recipe]
    phantom = {"data__phantom__volumes": 5, "data__phantom__shape": shape}
    if recipe == "cardiac":  # of one domain: CT of chests that MR shows too
        phantom |= {"data__phantom__modality": "cardiac", "data__anatomy": "ct", "data__tumour": ""}
    done = run_here("make_tiles", tmp_path, tiny=False, recipe=recipe, **phantom)
    assert done.code == 0, done.out + done.err
    assert done.result["tiles"]["train"] > 0
