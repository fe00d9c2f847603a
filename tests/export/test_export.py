"""Tiles and volumes written for other tools, read back by other libraries: the same values on the same grid."""

import json

import nibabel
import numpy as np
import pytest
import tifffile
import yaml
import zarr
from insertion_sets import AFFINE
from open_runs import Kept
from PIL import Image
from tile_sets import write_set

from metgan_dist.cluster.resources import plan_resources
from metgan_dist.errors import UserError
from metgan_dist.export import exporting
from metgan_dist.export.exporting import Exporting
from metgan_dist.recipe import Data, Recipe, Scaling
from metgan_dist.runs.job import Result
from metgan_dist.runs.run_folder import Run
from metgan_dist.volumes.dataset import resolve_data, volume_refs
from metgan_dist.volumes.volume import whole

SHAPE = (4, 12, 10)  # z, y, x
NAMES = ("a", "b", "c", "held")


def voxels(name, dtype=np.uint16):
    return np.random.default_rng(ord(name[0])).integers(0, 4000, SHAPE).astype(dtype)


def mask(name):
    return (7 * (voxels(name) > 2000)).astype(np.uint8)


@pytest.fixture
def volumes(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    entries = []
    for name in NAMES:
        for file, own in ((name, voxels(name)), (f"{name}-label", mask(name))):
            image = nibabel.Nifti1Image(own.T, AFFINE)
            image.header.set_xyzt_units("mm")
            nibabel.save(image, folder / f"{file}.nii.gz")
        entries.append({"id": name, "path": {"t2": f"{name}.nii.gz"}, "label": f"{name}-label.nii.gz", "patient": name})
    entries[-1]["split"] = "test"
    tree = {"anatomy": "", "tumour": "t2", "labels": {7: "tumour"}, "volumes": entries}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(tree))
    return folder


def recipe_of(path, out, **export):
    return Recipe.model_validate(
        {
            "data": {"path": str(path)},
            "tiles": {"test": 0, "val": 0},
            "scaling": {"workers": 0},
            "export": {"folder": str(out), **export},
        }
    )


def run(tmp_path, path, out, run="run", **export):
    recipe = recipe_of(path, out, **export)
    folder = tmp_path / run
    folder.mkdir(exist_ok=True)
    opened = Kept(
        recipe, Run(run, str(folder), "export", False, None, {}), plan_resources(Scaling(), 2, 0), "", Result()
    )
    Exporting.planned(recipe).carry_out(opened)
    return opened.result.artefacts


def test_volumes_for_nn_unet_are_read_back_bit_for_bit(volumes, tmp_path):
    made = run(tmp_path, volumes, tmp_path / "raw", name="Heads", id=7)
    folder = tmp_path / "raw/Dataset007_Heads"
    assert made["export"] == str(folder)
    for name in NAMES:
        side = "Ts" if name == "held" else "Tr"
        image = nibabel.load(folder / f"images{side}/{name}_0000.nii.gz")
        assert np.array_equal(np.asarray(image.dataobj).T, voxels(name))
        assert np.array_equal(image.affine, nibabel.load(volumes / f"{name}.nii.gz").affine)
        label = nibabel.load(folder / f"labels{side}/{name}.nii.gz")
        assert np.array_equal(np.asarray(label.dataobj).T, mask(name) > 0)
    said = json.loads((folder / "dataset.json").read_text())
    assert said["labels"] == {"background": 0, "tumour": 1}
    assert (said["numTraining"], said["channel_names"]) == (3, {"0": "t2"})
    for pair in json.loads((folder / "splits_final.json").read_text()):
        assert set(pair["train"]) | set(pair["val"]) == {"a", "b", "c"}
        assert not set(pair["train"]) & set(pair["val"])
    # The project's own layout of such folders.
    for ref in volume_refs(resolve_data(Data(path=str(folder), tumour="t2", anatomy=""))):
        volume = ref.open()
        assert np.array_equal(volume.read("label", whole(volume)), mask(ref.id) > 0)
    behind = json.loads((folder / "lineage.json").read_text())
    assert set(behind["cases"]) == set(NAMES)


@pytest.mark.parametrize("form", ["nifti", "tiff", "png", "ome-zarr"])
def test_volumes_as_folders_are_read_back_bit_for_bit(volumes, tmp_path, form):
    run(tmp_path, volumes, tmp_path / "out", format=form)
    own = tmp_path / "out/images"
    if form == "nifti":
        found = np.asarray(nibabel.load(own / "a.nii.gz").dataobj).T
    elif form == "tiff":
        found = tifffile.imread(own / "a.tif")
    elif form == "png":
        found = np.stack([np.asarray(Image.open(own / f"a/z{z:04d}.png")) for z in range(SHAPE[0])])
    else:
        found = np.squeeze(zarr.open(own / "a.ome.zarr/s0", mode="r")[:])
    assert found.dtype == np.uint16
    assert np.array_equal(found, voxels("a"))


def test_what_is_there_is_not_written_again_and_the_digest_is_the_same(volumes, tmp_path, monkeypatch):
    first = run(tmp_path, volumes, tmp_path / "out", format="nifti")
    monkeypatch.setattr(exporting, "write_batch", None)
    assert run(tmp_path, volumes, tmp_path / "out", format="nifti") == first
    monkeypatch.undo()
    other = run(tmp_path, volumes, tmp_path / "other", "other", format="nifti")
    assert other["export_sha256"] == first["export_sha256"]


@pytest.mark.parametrize("form", ["nnunet", "tiff"])
def test_tiles_stay_floats(tmp_path, form):
    tiles = write_set(tmp_path / "tiles", train=6, val=0, test=2)
    run(tmp_path, tiles.uri, tmp_path / "out", format=form, roles=["tumour"], splits="own")
    for row in (0, 7):
        if form == "nnunet":
            side = "Ts" if tiles.index["split"][row] == "test" else "Tr"
            found = np.asarray(
                nibabel.load(tmp_path / f"out/Dataset001_Export/images{side}/tile-{row:06d}_0000.nii.gz").dataobj
            ).T
        else:
            found = tifffile.imread(tmp_path / f"out/images/tile-{row:06d}.tif")
        assert np.array_equal(found, tiles.load(row)["tumour"][0])


@pytest.mark.parametrize(
    ("export", "told"),
    [
        ({"format": "png"}, "export.png_range"),
        ({"domain": "mr"}, "has no domains; leave it out"),
    ],
)
def test_what_does_not_fit_tiles_is_one_line(tmp_path, export, told):
    tiles = write_set(tmp_path / "tiles", train=6, val=0, test=0)
    with pytest.raises(UserError, match=told):
        Exporting.planned(recipe_of(tiles.uri, tmp_path / "out", **export))


def test_other_folders_and_ids_are_refused(volumes, tmp_path):
    (tmp_path / "raw/Dataset007_Other").mkdir(parents=True)
    with pytest.raises(UserError, match=r"export\.id: 7 is that of Dataset007_Other"):
        Exporting.planned(recipe_of(volumes, tmp_path / "raw", id=7))
    with pytest.raises(UserError, match="lies within"):
        Exporting.planned(recipe_of(volumes, volumes / "out"))
    with pytest.raises(UserError, match="is not empty"):
        run(tmp_path, volumes, tmp_path / "raw", format="nifti")
