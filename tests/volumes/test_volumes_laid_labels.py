"""Several label files of a volume laid over each other, classes by name, and volumes in which one of them is empty."""

import nibabel
import numpy as np
import pytest
import yaml

from metgan_dist.errors import UserError
from metgan_dist.recipe import FREESURFER, Data
from metgan_dist.volumes.dataset import fields_of_its_own, resolve_data, volume_refs
from metgan_dist.volumes.labelled import open_looked_at
from metgan_dist.volumes.volume import whole

SHAPE = (3, 5, 7)  # z, y, x
LABELS = {"tissue": {2: "white matter", 41: "white matter", 4: "ventricles", 3: "grey matter"}, "lesion": {1: "lesion"}}


def nifti(path, voxels):
    nibabel.save(nibabel.Nifti1Image(voxels.T, np.eye(4)), path)


@pytest.fixture
def tissue():
    values = np.full(SHAPE, 2, np.int16)
    values[0], values[1, :, 3:], values[2, 0] = 0, 4, 41
    values[2, 1] = 3
    return values


@pytest.fixture
def lesion():
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[1, 2, 1:5] = 1
    return voxels


@pytest.fixture
def folder(tmp_path, tissue, lesion):
    """A stroke case with both label files, a healthy one with the tissue map alone."""
    dwi = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    for name, voxels in (("dwi", dwi), ("tissue", tissue), ("lesion", lesion)):
        nifti(tmp_path / f"{name}.nii.gz", voxels)
    (tmp_path / "healthy.nii.gz").write_bytes((tmp_path / "dwi.nii.gz").read_bytes())
    nifti(tmp_path / "healthy-tissue.nii.gz", tissue)
    describe(tmp_path)
    return tmp_path


def describe(folder, healthy=None, stroke=None, **changes):
    stroke = {"tissue": "tissue.nii.gz", "lesion": "lesion.nii.gz"} if stroke is None else stroke
    healthy = {"label": {"tissue": "healthy-tissue.nii.gz"}, "healthy": True} if healthy is None else healthy
    volumes = [{"id": "stroke", "path": "dwi.nii.gz", "label": stroke}]
    volumes.append({"id": "healthy", "path": "healthy.nii.gz", **healthy})
    tree = {"anatomy": "", "tumour": "c0", "labels": LABELS, "volumes": volumes} | changes
    (folder / "dataset.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def labels_of(folder, **data):
    refs = volume_refs(Data(path=str(folder), anatomy="", **data))
    volumes = [open_looked_at(ref) for ref in refs]
    assert not any(volume.has("anatomy") for volume in volumes)  # an image that is not there is not made up
    return {volume.id: volume.read("label", ((0, 3), (0, 5), (0, 7))) for volume in volumes}


def test_the_later_label_lies_over_the_earlier_and_classes_go_by_name(folder, tissue, lesion):
    read = labels_of(folder, label=["tissue", "lesion"])
    plain = np.select([np.isin(tissue, (2, 41)), tissue == 4, tissue == 3], [1, 2, 3])
    assert (read["healthy"] == plain).all()
    assert (read["stroke"] == np.where(lesion, 4, plain)).all()
    assert (labels_of(folder)["stroke"] == read["stroke"]).all()  # nobody says which: all, as `labels` has them
    under = labels_of(folder, label=["lesion", "tissue"])["stroke"]
    assert (under == np.where(plain, plain + 1, lesion)).all()


def test_one_of_several_label_files_is_a_set_of_its_own_classes(folder, lesion):
    data = resolve_data(Data(path=str(folder), label="lesion"))
    assert (data.labels, data.classes, data.label) == ({1: "lesion"}, 2, "lesion")
    read = labels_of(folder, label="lesion")
    assert (read["stroke"] == lesion).all()
    assert not read["healthy"].any()
    assert resolve_data(data) == data
    both = resolve_data(Data(path=str(folder)))
    assert (both.classes, both.label, resolve_data(both)) == (5, ["tissue", "lesion"], both)


def test_an_empty_list_says_that_there_is_nothing_of_a_label(folder):
    describe(folder, healthy={"label": {"tissue": "healthy-tissue.nii.gz", "lesion": []}})
    assert labels_of(folder)["healthy"].max() == 3


def test_groups_of_numbers_by_name_and_what_freesurfer_calls_them(folder, tissue):
    named = {**LABELS, "tissue": "freesurfer"}
    describe(folder, labels=named)
    data = resolve_data(Data(path=str(folder)))
    read = labels_of(folder)["healthy"]
    names = ("background", *dict.fromkeys(FREESURFER.values()), "lesion")
    assert data.classes == len(names) == 9
    assert {names[k] for k in read[1, :, 3:].ravel()} == {"ventricles"}
    assert {names[k] for k in read[2, :2].ravel()} == {"white matter", "grey matter"}


def test_the_tissue_for_lesions_is_the_usual_one_of_those_that_there_are_or_as_named(folder):
    data = resolve_data(Data(path=str(folder)))
    assert data.tissue == {1: "white matter", 3: "grey matter"}
    describe(folder, parenchyma=["ventricles"])
    assert resolve_data(Data(path=str(folder))).tissue == {2: "ventricles"}
    # Who takes the lesion alone has no tissue, which is no mistake until somebody lays lesions into it.
    alone = resolve_data(Data(path=str(folder), label="lesion"))
    with pytest.raises(UserError, match=r"data\.parenchyma: none of white matter.*\(lesion\)"):
        _ = alone.tissue


@pytest.mark.parametrize(
    ("changes", "data", "said"),
    [
        ({}, {"label": ["tissue", "infarct"]}, r"data\.label: 'infarct' is none of .*\(tissue, lesion\)"),
        ({"healthy": {"label": {"tissue": "tissue.nii.gz"}}}, {}, "'healthy' names no file of the label 'lesion'"),
        ({"stroke": "lesion.nii.gz"}, {}, r"'stroke' has one label, lesion\.nii\.gz, and `labels`.*label: \{tissue"),
        ({"labels": {1: "lesion"}}, {"label": ["tissue", "lesion"]}, r"data\.labels: .*name the values of each"),
        ({"labels": {1: "lesion"}}, {}, r"data\.label: volume 'stroke' has several label files \(tissue, lesion\)"),
        ({"parenchyma": ["bone"]}, {}, r"data\.parenchyma: 'bone' is no class of the data set \(white matter"),
        ({"stroke": {"tissue": "tissue.nii.gz", "lesion": ["a"]}}, {}, r"volumes\.0\.label: .*\[\] for an empty one"),
        ({"labels": {"tissue": {2: " "}, "lesion": {1: "lesion"}}}, {}, "value 2 has no name"),
        ({"labels": {"tissue": {2: "white matter"}, "lesion": {1: "lesion"}}}, {}, r"tissue\.nii\.gz: .*4 \(20 voxels"),
    ],
)
def test_what_is_wrong_with_several_labels_is_one_line(folder, changes, data, said):
    describe(folder, **changes)
    with pytest.raises(UserError, match=said) as caught:
        labels_of(folder, **data)
    assert "\n" not in str(caught.value)


def test_values_that_one_of_two_files_has_and_nobody_names_are_counted_when_they_may_be_background(folder):
    describe(folder, labels={"tissue": {2: "white matter"}, "lesion": {1: "lesion"}}, unmapped="background")
    volume = open_looked_at(volume_refs(Data(path=str(folder)))[0])
    assert volume.ignored == {3: 7, 4: 20, 41: 7}
    assert set(np.unique(volume.read("label", whole(volume._volume)))) == {0, 1, 2}


def test_a_label_file_on_another_grid_names_both_files(folder, lesion):
    nifti(folder / "lesion.nii.gz", lesion[:, :, :-1])
    with pytest.raises(UserError, match=r"lesion\.nii\.gz: \(3, 5, 6\) voxels.*dwi\.nii\.gz has \(3, 5, 7\)"):
        labels_of(folder)


def test_a_preset_says_which_label_of_those_that_there_are_and_may_do_without_the_anatomy(folder):
    describe(folder, anatomy="c1", tumour="c0")
    of_set = {"tumour", "labels", "classes", "volumes"}
    for label in ("lesion", ["tissue", "lesion"]):
        preset = Data(path=str(folder), anatomy="", tumour="c0", label=label)
        assert fields_of_its_own(preset) == of_set
        assert resolve_data(preset).anatomy == ""
    assert fields_of_its_own(Data(path=str(folder), label="metastases")) == of_set | {"anatomy", "label"}
