"""Label values to classes, against arrays worked out by hand."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from metgan_dist.recipe import Data
from metgan_dist.volumes.dataset import resolve_data, volume_refs
from metgan_dist.volumes.label_map import LabelMap
from metgan_dist.volumes.labelled import open_looked_at

REGION = ((4, 6), (0, 2), (0, 3))
STORED = np.array([[[0, 500, 205], [420, 421, 500]], [[205, 205, 0], [0, 0, 420]]])
CLASSES = np.array([[[0, 1, 2], [3, 3, 1]], [[2, 2, 0], [0, 0, 3]]], np.uint8)
HEART = {500: "left ventricle", 205: "myocardium", 421: "left atrium", 420: "left atrium"}


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", ">i4", "u8", "f4", "f8"])
def test_values_become_classes_by_name_and_order(dtype):
    mapped = LabelMap.of(HEART, None).classes_of(STORED.astype(dtype), "l.nii", REGION)
    np.testing.assert_array_equal(mapped, CLASSES, strict=True)


def test_an_unmapped_value_is_refused_with_its_count_and_place(mistake):
    stored = STORED.copy()
    stored[0, 0, 0], stored[1, 1, :2] = 7, 850
    with mistake("l.nii", "label value 850 (2 voxels), 7 (1 voxel)", "region z 4:6, y 0:2, x 0:3", "`labels`"):
        LabelMap.of(HEART, None).classes_of(stored, "l.nii", REGION)


def test_an_unmapped_value_becomes_background_where_the_set_says_so_and_is_counted():
    stored = STORED.copy()
    stored[0, 0, 0], stored[1, 1, :2], stored[1, 0, 0] = -4, 850, 421
    ignoring = LabelMap.of(HEART, "background")
    expected = CLASSES.copy()
    expected[1, 0, 0] = 3
    np.testing.assert_array_equal(ignoring.classes_of(stored, "l.nii", REGION), expected, strict=True)
    assert ignoring.unmapped(stored, "l.nii", REGION) == {-4: 1, 850: 2}


@pytest.mark.parametrize("unmapped", [None, "background"])
@pytest.mark.parametrize("value", [204.5, np.nan])
def test_mixed_values_are_refused_whatever_is_ignored(unmapped, value, mistake):
    stored = STORED.astype(np.float32)
    stored[1, 0, 0] = value
    with mistake("l.nii", "label value", f"{value:g}", "no integer", "nearest"):
        LabelMap.of(HEART, unmapped).classes_of(stored, "l.nii", REGION)


def test_what_a_scale_factor_left_of_an_integer_is_that_integer():
    stored = STORED.astype(np.float32) * np.float32(0.9999999)
    np.testing.assert_array_equal(LabelMap.of(HEART, None).classes_of(stored, "l.nii", REGION), CLASSES)


@pytest.fixture
def heart(tmp_path):
    """A folder with image.nii.gz and label.nii.gz of the values above, repeated along x; and its dataset.yaml."""
    label = np.tile(STORED, (1, 1, 5)).astype(np.int16)
    for name, array in (("image", label + 1000), ("label", label)):
        nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4)), tmp_path / f"{name}.nii.gz")
    (tmp_path / "dataset.yaml").write_text(
        "anatomy: image\ntumour: ''\nlabels: {500: left ventricle, 205: myocardium, 421: left atrium, "
        "420: left atrium}\nvolumes:\n  - {id: a, path: {image: image.nii.gz}, label: label.nii.gz}\n"
    )
    return tmp_path


def test_a_data_set_says_how_its_labels_lie_on_disk(heart):
    data = resolve_data(Data(path=str(heart)))
    assert (data.classes, list(data.labels or ())) == (4, [500, 205, 421, 420])
    volume = volume_refs(data)[0].open()
    assert volume.dtypes["label"] == np.uint8
    whole = np.tile(CLASSES, (1, 1, 5))
    np.testing.assert_array_equal(volume.read("label", ((0, 2), (0, 2), (0, 15))), whole, strict=True)
    np.testing.assert_array_equal(volume.read("label", ((1, 2), (0, 1), (3, 9))), whole[1:, :1, 3:9], strict=True)


def test_a_recipe_may_group_classes_otherwise(heart):
    chambers = {205: "wall", 500: "blood", 420: "blood", 421: "blood"}
    data = Data.model_validate({"path": str(heart), "labels": chambers})
    volume = volume_refs(data)[0].open()
    assert (resolve_data(data).classes, volume.classes) == (3, 3)
    grouped = np.array([0, 2, 1, 2], np.uint8)[CLASSES]
    np.testing.assert_array_equal(volume.read("label", ((0, 2), (0, 2), (0, 3))), grouped, strict=True)


def test_what_is_not_mapped_is_found_by_the_look_at_the_label(heart, mistake):
    text = (heart / "dataset.yaml").read_text().replace("421: left atrium, ", "")
    (heart / "dataset.yaml").write_text(text)
    with mistake(str(heart / "label.nii.gz"), "421 (5 voxels)", "`labels`", "unmapped: background"):
        open_looked_at(volume_refs(Data(path=str(heart)))[0])
    (heart / "dataset.yaml").write_text(text + "unmapped: background\n")
    volume = open_looked_at(volume_refs(Data(path=str(heart)))[0])
    assert volume.ignored == {421: 5}
    assert volume.ignores


def test_labels_and_classes_of_a_description_agree(heart, mistake):
    (heart / "dataset.yaml").write_text((heart / "dataset.yaml").read_text() + "classes: 5\n")
    with mistake(str(heart / "dataset.yaml"), "classes: 5", "`labels` names 4"):
        resolve_data(Data(path=str(heart)))


def test_unmapped_without_labels_is_no_setting_that_is_ignored(heart, mistake):
    text = (heart / "dataset.yaml").read_text().splitlines()
    (heart / "dataset.yaml").write_text("\n".join(line for line in text if not line.startswith("labels")))
    with mistake("data.unmapped", "`labels`", "leave it out"):
        volume_refs(Data.model_validate({"path": str(heart), "unmapped": "background"}))
