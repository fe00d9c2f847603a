"""A user's mistake is one line on standard error that names the culprit, exit code 2, and no traceback."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import ray
import tifffile
import yaml
from servers import free_port
from tile_sets import write_set
from user import refused, run, run_here

pytestmark = pytest.mark.usefixtures("ray_cluster")

# Slices of the small volume that the fixtures write.
OWN = {
    "tiny": False,
    "data__anatomy": "anatomy",
    "data__tumour": "tumour",
    "data__label": "spots",
    "tiles__kind": "slice",
    "tiles__size": 64,
    "tiles__stride": 64,
    "tiles__step": 1,
}


def planes(folder, count=5, shape=(128, 256)):
    for channel in ("anatomy", "tumour"):
        (folder / channel).mkdir(parents=True)
        for z in range(count):
            plane = np.random.default_rng(z).integers(0, 1000, shape).astype("uint16")
            tifffile.imwrite(folder / channel / f"plane_{z}.tif", plane)
    mask = np.zeros((count, *shape), "uint8")
    mask[:, 10:30, 10::64] = 1
    tifffile.imwrite(folder / "label.tif", mask)
    (folder / "dataset.yaml").write_text(
        "anatomy: anatomy\ntumour: tumour\nvolumes:\n"
        "  - {id: mine, path: {anatomy: anatomy, tumour: tumour}, label: label.tif}\n"
    )
    return folder


def test_missing_path_as_a_process_of_its_own(tmp_path):
    refused(run("make_tiles", tmp_path / "out", data__path=tmp_path / "absent"), tmp_path / "absent")


@pytest.mark.parametrize("size", [0, 300])
def test_empty_or_truncated_tiff(tmp_path, size):
    folder = planes(tmp_path / "data")
    victim = folder / "anatomy" / "plane_2.tif"
    victim.write_bytes(victim.read_bytes()[:size])
    refused(run_here("make_tiles", tmp_path / "out", data__path=folder, **OWN), victim)


def test_plane_of_another_size(tmp_path):
    folder = planes(tmp_path / "data")
    victim = folder / "tumour" / "plane_1.tif"
    tifffile.imwrite(victim, np.zeros((64, 64), "uint16"))
    refused(run_here("make_tiles", tmp_path / "out", data__path=folder, **OWN), victim, "64")


def test_zarr_without_multiscales(tmp_path, ome_zarr):
    path = ome_zarr(metadata=False)
    refused(run_here("make_tiles", tmp_path / "out", data__path=path, **OWN), path, "multiscales")


def test_zarr_with_a_missing_chunk(tmp_path, ome_zarr):
    path = ome_zarr()
    chunk = next(file for file in (path / "0").rglob("*") if file.is_file() and file.name not in (".zarray", ".zattrs"))
    chunk.unlink()
    refused(run_here("make_tiles", tmp_path / "out", data__path=path, **OWN), path, chunk.name)
    assert run_here("make_tiles", tmp_path / "out", data__path=path, data__missing_chunks="fill", **OWN).code == 0


def test_unknown_channel(tmp_path, ome_zarr):
    fields = {**OWN, "data__tumour": "tumor"}
    refused(run_here("make_tiles", tmp_path / "out", data__path=ome_zarr(), **fields), "tumor", "anatomy")


def test_label_of_another_shape(tmp_path, ome_zarr):
    path = ome_zarr(label=np.ones((8, 128, 100), "uint8"))
    refused(run_here("make_tiles", tmp_path / "out", data__path=path, **OWN), "spots", "100")


def test_label_with_more_classes_than_the_recipe(tmp_path, ome_zarr):
    path = ome_zarr(label=np.full((8, 128, 256), 7, "uint8"))
    refused(run_here("make_tiles", tmp_path / "out", data__path=path, **OWN), "spots", "7", "data.classes")


def test_a_class_too_many_is_told_before_anything_is_cut(tmp_path, ome_zarr):
    label = np.zeros((8, 128, 256), "uint8")
    label[7, -1, -1] = 7
    fields = {**OWN, "data__path": ome_zarr(label=label)}
    refused(run_here("make_tiles", tmp_path / "out", **fields), "spots", "label value 7", "`classes`")
    assert not list((tmp_path / "out").rglob("plan.json"))


def test_what_is_held_out_is_not_trained_on_under_another_name(tmp_path):
    folder = planes(tmp_path / "data")
    paths = {channel: f"../data/{channel}" for channel in ("anatomy", "tumour")}
    one = {"id": "one", "path": paths, "label": "label.tif", "patient": "p", "split": "train"}
    described = {"anatomy": "anatomy", "volumes": [one, {**one, "id": "two", "split": "test"}]}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(described))
    refused(run_here("make_tiles", tmp_path / "out", data__path=folder, **OWN), folder / "anatomy", "'one' and 'two'")
    planes(tmp_path / "copy")
    described["volumes"][1]["path"] = {channel: f"../copy/{channel}" for channel in paths}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(described))
    finished = run_here("make_tiles", tmp_path / "out", data__path=folder, **OWN)
    refused(finished, "data.volumes: patient p", "test", "train", "one side")
    assert not list((tmp_path / "out").rglob("plan.json"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers(tmp_path, ome_zarr, value):
    def spoil(image):
        image = image.astype("float32")
        image[0, 3, 50, 50] = value
        return image

    path = ome_zarr(change=spoil)
    refused(run_here("make_tiles", tmp_path / "out", data__path=path, **OWN), path)


def test_constant_volume(tmp_path, ome_zarr):
    path = ome_zarr(change=lambda image: np.full_like(image, 5))
    refused(run_here("make_tiles", tmp_path / "out", data__path=path, **OWN), "5 everywhere")


def test_a_label_value_that_is_not_mapped(tmp_path):
    folder = planes(tmp_path / "data")
    described = (folder / "dataset.yaml").read_text()
    (folder / "dataset.yaml").write_text(described + "labels: {2: spot}\n")
    done = run_here("make_tiles", tmp_path / "out", data__path=folder, **OWN)
    refused(done, folder / "label.tif", "label value 1 (", "voxels)", "`labels`", "unmapped: background")


def test_a_value_that_is_not_mapped_in_one_of_two_label_files(tmp_path):
    folder = planes(tmp_path / "data")
    tissue = np.full((5, 128, 256), 2, "uint8")
    tissue[0, 0, :7] = 77
    tifffile.imwrite(folder / "tissue.tif", tissue)
    described = (folder / "dataset.yaml").read_text()
    both = described.replace("label: label.tif", "label: {tissue: tissue.tif, lesion: label.tif}")
    (folder / "dataset.yaml").write_text(both + "labels: {tissue: {2: white matter}, lesion: {1: lesion}}\n")
    done = run_here("make_tiles", tmp_path / "out", data__path=folder, **OWN | {"data__label": "tissue,lesion"})
    refused(done, folder / "tissue.tif", "label value 77 (7 voxels)", "`labels`", "unmapped: background")


def test_a_stroke_set_in_bids_without_its_masks(tmp_path):
    (tmp_path / "data/sub-strokecase0001/ses-0001/dwi").mkdir(parents=True)
    done = run_here("make_tiles", tmp_path / "out", recipe="stroke", data__path=tmp_path / "data", tiny=False)
    refused(done, tmp_path / "data", "subjects of ISLES'22", "no folder derivatives/")


def test_a_volume_without_a_voxel_size_to_resample_from(tmp_path):
    done = run_here("make_tiles", tmp_path / "out", data__path=planes(tmp_path / "data"), tiles__spacing="1,1,1", **OWN)
    refused(done, "tiles.spacing", "'mine' has no voxel spacing")


def test_tile_larger_than_the_volume(tmp_path, ome_zarr):
    refused(
        run_here("make_tiles", tmp_path / "out", data__path=ome_zarr(), **{**OWN, "tiles__size": 512}),
        "tiles.size",
        "512",
    )


def mlflow_runs(storage):
    client = mlflow.MlflowClient(f"sqlite:///{storage}/mlflow.db")
    return client.search_runs([one.experiment_id for one in client.search_experiments()])


@pytest.mark.parametrize("job", ["make_tiles", "train_segmentor", "train_metgan", "segment_folds", "run_study"])
def test_a_mistake_found_before_any_work_leaves_no_run(job, tmp_path, ome_zarr):
    more = ["--study", "ablation"] if job == "run_study" else []
    volume, storage = ome_zarr(), tmp_path / "out"
    storage.mkdir()
    named = {"tracking__run": "mine", "tiles__stride": 64, "scores__missing_weights": "skip"}
    large = run_here(job, storage, *more, data__path=volume, **{**OWN, **named, "tiles__size": 512})
    refused(large, "tiles.size: 512 is larger than volume")
    phantom = run_here(job, storage, *more, **named, tiles__size=256)
    refused(phantom, "tiles.size: 256 is larger than volume 'phantom-0'")
    assert [path.name for path in storage.iterdir()] == ["mlflow.db"]
    assert mlflow_runs(storage) == []


def test_a_name_is_free_for_another_recipe_after_such_a_mistake(tmp_path):
    refused(run_here("make_tiles", tmp_path, tracking__run="mine", tiles__size=256), "tiles.size: 256 is larger")
    assert run_here("make_tiles", tmp_path, tracking__run="mine").code == 0


def test_a_channel_that_a_training_lacks_is_missed_before_any_work(tmp_path, ome_zarr):
    done = run_here("train_metgan", tmp_path / "out", data__path=ome_zarr(), **{**OWN, "data__tumour": ""})
    refused(done, "data.tumour: volume 'volume' has no tumour to train on")
    assert not (tmp_path / "out").exists()


def test_no_foreground_in_the_training_split(tmp_path, ome_zarr):
    path = ome_zarr(label=np.zeros((8, 128, 256), "uint8"))
    refused(run_here("make_tiles", tmp_path / "out", data__path=path, **OWN), "foreground")


def test_unknown_and_out_of_range_fields(tmp_path):
    refused(run_here("train_metgan", tmp_path, method__alpha9=1), "method.alpha9")
    refused(run_here("train_metgan", tmp_path, method__alpha1=-1), "method.alpha1")
    refused(run_here("train_metgan", tmp_path, method__name="gan"), "method.name", "gan", "metgan")
    foreign = run_here("train_metgan", tmp_path, method__name="pix2pix", method__kl=1)
    refused(foreign, "method.kl", "pix2pix has no such field", "spade_vae", "method.pool")
    refused(run_here("run_study", tmp_path, study="nerves", method__kl=1), "method.kl: no row of the study has it")


def test_more_workers_than_the_cluster_has(tmp_path):
    refused(run_here("train_metgan", tmp_path, scaling__workers=512), "scaling.workers", "512")


def test_tile_that_the_networks_cannot_halve(tmp_path):
    refused(run_here("train_metgan", tmp_path, tiles__size=96, tiles__stride=32), "tiles.size", "96")


def test_method_of_2d_tiles_on_crops(tmp_path):
    fields = {"tiles__kind": "crop", "tiles__size": "16,64,64", "method__name": "sifa"}
    refused(run_here("train_metgan", tmp_path, **fields), "method.name: sifa takes 2D tiles, and tiles.kind crop")
    refused(run_here("train_metgan", tmp_path, **{**fields, "method__name": "metgan"}), "tiles.size", "at least 24")
    assert list(tmp_path.glob("*/")) == []


def test_global_classes_without_organs_before_anything_is_trained(tmp_path):
    tiles = write_set(tmp_path / "tiles")
    fields = {"data__path": tiles.uri, "method__name": "redgan", "method__global_classes": 4}
    done = run_here("train_metgan", tmp_path, tiny=False, **fields)
    refused(done, "method.global_classes: 4 classes, but", tiles.uri)
    assert "training a segmentor" not in done.out


def test_unreachable_tracking_server(tmp_path):
    uri = f"http://127.0.0.1:{free_port()}"
    refused(run_here("train_metgan", tmp_path, tracking__uri=uri), "tracking.uri", uri)


def test_name_of_a_run_with_another_recipe(tmp_path):
    assert run_here("make_tiles", tmp_path, tracking__run="mine").code == 0
    refused(run_here("make_tiles", tmp_path, tracking__run="mine", tiles__depth=16), "tracking.run", "tiles.depth")


def test_a_failed_run_loses_nothing_and_says_why(tmp_path, ome_zarr):
    """A mistake found in the middle of the work leaves a result that says so, and a failed MLflow run."""
    path = ome_zarr(change=lambda image: np.full_like(image, 5))
    line = refused(run_here("make_tiles", tmp_path / "out", data__path=path, tracking__run="mine", **OWN))
    result = json.loads((tmp_path / "out" / "mine" / "result.json").read_text())
    assert result["status"] == "failed"
    assert result["reason"] in line
    client = mlflow.MlflowClient(result["tracking_uri"])
    assert client.get_run(result["mlflow_run_id"]).info.status == "FAILED"


def test_debug_shows_the_traceback(tmp_path):
    finished = run_here("make_tiles", tmp_path, "--debug", data__path=tmp_path / "absent")
    assert finished.code == 2
    assert "Traceback" in finished.err


@pytest.mark.slow
def test_tiles_that_were_damaged_since_they_were_made_are_told_after_one_restart(tmp_path, segmentors):
    made = run_here("make_tiles", tmp_path).result["artefacts"]["tiles"]
    for chunk in Path(made).glob("shards/*.zarr/tumour/c/**/*"):
        if chunk.is_file():
            chunk.write_bytes(b"")
    before = trainings_workers()
    done = run_here("train_metgan", tmp_path, data__path=made, **segmentors)
    refused(done, f"{made}/shards/", ".zarr/tumour: cannot be read", "copy or cut the tiles again")
    assert len(trainings_workers() - before) == 2
    assert "Traceback" not in done.out


def trainings_workers():
    """Ids of all of this process's actors so far that were workers of a training."""
    mine = ray.get_runtime_context().get_job_id()
    actors = ray._private.state.actors(job_id=ray.JobID(bytes.fromhex(mine))).values()
    return {actor["ActorID"] for actor in actors if actor["ActorClassName"] == "RayTrainWorker"}
