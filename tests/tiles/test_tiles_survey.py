"""What is told of volumes before any of them is cut."""

import nibabel
import numpy as np
import pytest
import tifffile
from nibabel.orientations import axcodes2ornt, ornt_transform

from metgan_dist.recipe import Data, Recipe, Tiles, VolumeEntry
from metgan_dist.tiles import survey
from metgan_dist.tiles.cut import cut_block, finish
from metgan_dist.tiles.survey import fingerprint, plan_jobs, survey_volumes
from metgan_dist.volumes.dataset import volume_refs
from metgan_dist.volumes.nifti import Nifti

# Of the set of `scans` as the package gave it when a data section had neither labels nor orientation.
FINGERPRINT = "d66a392157e1a489d901ef165bcb1430fe1a48618719186f7627b157d0fb43cd"
UNMAPPED = {"labels": {10: "a", 20: "b"}, "unmapped": "background"}


@pytest.fixture
def data(tmp_path):
    """data(split, ...) -> a data set of one folder of images for each split, whose tables share the patient p."""

    def write(*splits):
        volumes = []
        for number, split in enumerate(splits):
            folder = tmp_path / f"m{number}"
            folder.mkdir()
            for image in range(2):
                tifffile.imwrite(folder / f"i{image}.tif", np.full((8, 8), image, np.uint8))
            (tmp_path / f"m{number}.csv").write_text(f"file,patient\ni0.tif,p\ni1.tif,q{number}\n")
            table = f"m{number}.csv"
            volumes.append({"id": f"m{number}", "path": {"auto": f"m{number}"}, "table": table, "split": split})
        tree = {"path": str(tmp_path), "anatomy": "auto", "tumour": "", "volumes": volumes}
        return Data.model_validate(tree)

    return write


def test_a_patient_whom_tables_put_on_two_sides_is_named(data, mistake):
    described = data("train", "auto", "test")
    with mistake("data.volumes: patient p", "test and to train"):
        survey_volumes(volume_refs(described), described, print)


def test_a_patient_on_one_side_is_none(data):
    described = data("train", "auto", "train")
    assert len(survey_volumes(volume_refs(described), described, print)[0]) == 3


def test_sets_from_before_a_field_are_known_by_their_fingerprint(data):
    described = data("train")
    refs, tiles = volume_refs(described), Tiles()
    told = described.model_copy(update={"one_channel": True})
    assert fingerprint(told, tiles, refs) == fingerprint(described, tiles, refs)
    turned = [entry.model_copy(update={"label_axes": "zyx"}) for entry in described.volumes]
    assert fingerprint(described.model_copy(update={"volumes": turned}), tiles, refs) != fingerprint(
        described, tiles, refs
    )


def test_a_set_keeps_the_fingerprint_that_it_had_before_there_were_domains():
    plain = Data(path="x", volumes=[VolumeEntry(id="a", path="a.tif", patient="p")])
    known = "775a1491d3351673d44f7e403c96f72163c98ceca66a6407bcc2a9c0c907fbd3"  # by the version before
    assert fingerprint(plain, Tiles(), []) == known
    assert fingerprint(plain.model_copy(update={"unpaired": True}), Tiles(), []) == known
    parted = plain.model_copy(update={"source": "ct"})
    assert fingerprint(parted, Tiles(), []) != known


def scans(folder, *sides):
    """A data section of NIfTI volumes v0, v1, ... that lie so, with labels of the values 0, 10 and 20."""
    volumes = []
    for number, lies in enumerate(sides):
        turn = ornt_transform(axcodes2ornt(("R", "A", "S")), axcodes2ornt(tuple(lies)))
        image = np.random.default_rng(number).integers(0, 999, (8, 9, 10)).astype(np.int16)
        label = np.resize(np.array([0, 10, 20], np.int16), image.shape)
        for name, array in (("image", image), ("label", label)):
            scan = nibabel.Nifti1Image(array, np.diag([1, 2, 4, 1])).as_reoriented(turn)
            nibabel.save(scan, folder / f"v{number}_{name}.nii.gz")
        path = {"image": f"v{number}_image.nii.gz"}
        volumes.append({"id": f"v{number}", "path": path, "label": f"v{number}_label.nii.gz"})
    return {"path": str(folder), "anatomy": "image", "tumour": "", "volumes": volumes}


def test_the_fingerprint_of_a_set_is_what_it_was_before_later_fields(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "_files", lambda ref: [[ref.id, "1", "2"]])
    data = Data.model_validate(scans(tmp_path, "RAS", "LPS") | {"classes": 21})
    assert fingerprint(data, Tiles(), volume_refs(data)) == FINGERPRINT


@pytest.mark.parametrize(
    "more",
    [{"labels": {10: "a", 20: "b"}}, {"labels": {20: "b", 10: "a"}}, {"orientation": "RAS"}, UNMAPPED],
)
def test_what_decides_the_voxels_decides_the_fingerprint(tmp_path, more):
    tree = scans(tmp_path, "RAS")
    sections = [Data.model_validate(tree), Data.model_validate(tree | {"labels": {10: "a", 20: "a"}})]
    others = [fingerprint(data, Tiles(), volume_refs(data)) for data in sections]
    data = Data.model_validate(tree | more)
    assert fingerprint(data, Tiles(), volume_refs(data)) not in others


def test_label_values_that_are_ignored_are_told_with_their_counts(tmp_path, monkeypatch):
    data = Data.model_validate(scans(tmp_path, "RAS") | {"labels": {20: "b"}, "unmapped": "background"})
    said: list[str] = []
    survey_volumes(volume_refs(data), data, said.append)
    assert said == ["v0: label values that become background: 10 (240 voxels)"]
    monkeypatch.setattr(Nifti, "cheap_bytes", 1)
    said.clear()
    survey_volumes(volume_refs(data), data, said.append)
    assert len(said) == 1
    assert "not counted here" in said[0]


def test_volumes_that_lie_in_several_orientations_are_told_unless_they_are_turned(tmp_path):
    tree, said = scans(tmp_path, "RAS", "LPS", "RAS"), []
    data = Data.model_validate(tree | {"classes": 21})
    survey_volumes(volume_refs(data), data, said.append)
    assert said == [
        "volumes lie in 2 orientations: 2 as RAS (first 'v0'), 1 as LPS (first 'v1'); `orientation: RAS` in the data "
        "set brings them to one"
    ]
    said.clear()
    turned = data.model_copy(update={"orientation": "RAS"})
    survey_volumes(volume_refs(turned), turned, said.append)
    assert said == []


@pytest.mark.parametrize("kind", ["crop", "slice"])
def test_voxels_of_any_size_and_orientation_are_resampled_by_the_affine(tmp_path, kind):
    """1 x 2 x 4 mm along x, y, z: 8 x 9 x 10 voxels are 8 x 18 x 40 mm, whatever way the file lies."""
    data = scans(tmp_path, "RAS", "LIA") | {"orientation": "RAS", "labels": {10: "a", 20: "b"}}
    size = [10, 6, 4] if kind == "crop" else [6, 4]
    tiles = {"kind": kind, "size": size, "spacing": [4, 3, 2], "gap": 0, "step": 10}
    recipe = Recipe.model_validate({"data": data, "tiles": tiles})
    surveys, _ = survey_volumes(volume_refs(recipe.data), recipe.data, print)
    memory = 2**26
    # Classes repeat along y and z. The centres of voxels of 3 mm along y lie nearest to these of 2 mm: none is mixed.
    nearest = np.array([0, 2, 3, 5, 6, 8])
    expected = (nearest[:, None] + np.arange(10)[:, None, None]) % 3 + np.zeros((1, 1, 4))
    for one in surveys:
        (job,) = plan_jobs(one, recipe, "", memory)
        (plan,) = job.block.plans
        assert plan.region == ((0, 10) if kind == "crop" else (0, 1), (0, 9), (0, 8))
        assert plan.shape == tuple(size)
        cut = cut_block(job.block, one.volume.read, {"label": np.dtype(np.uint8)}, one.volume.chunks, memory)
        label = finish(cut["label"][0], plan, is_label=True)
        np.testing.assert_array_equal(label, expected if kind == "crop" else expected[0])
