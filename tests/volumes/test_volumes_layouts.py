"""Folders in public layouts are data sets: each on a small one made here."""

from __future__ import annotations

import json

import fsspec
import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image

from metgan_dist.errors import UserError
from metgan_dist.recipe import Data, class_names
from metgan_dist.volumes.dataset import described_at, fields_of_its_own, resolve_data, volume_refs
from metgan_dist.volumes.layouts import LAYOUTS, layout_of

SHAPE = (6, 5, 4)


def scan(path, value=0, labels=(), channels=0):
    """A NIfTI file of `SHAPE` (x, y, z): of noise, or of the label values in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*SHAPE, channels) if channels else SHAPE
    random = np.random.default_rng(value)
    array = np.resize(labels, shape) if len(labels) else random.integers(0, 999, shape)
    nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), np.diag([-1.0, -1, 2, 1])), path)


def contents(folder, **tree):
    (folder / "dataset.json").write_text(json.dumps(tree))


def nn_unet(folder):
    for number, case in enumerate(("liver_1", "liver_2", "liver_10")):
        for channel in range(2):
            scan(folder / f"imagesTr/{case}_{channel:04d}.nii.gz", 2 * number + channel)
        scan(folder / f"labelsTr/{case}.nii.gz", labels=(0, 1, 2))
    for case in ("liver_20", "liver_21"):
        for channel in range(2):
            scan(folder / f"imagesTs/{case}_{channel:04d}.nii.gz", 20 + channel)
    scan(folder / "labelsTs/liver_20.nii.gz", labels=(0, 1, 2))
    labels = {"background": 0, "tumour": 2, "liver": 1}
    contents(folder, channel_names={"0": "CT", "1": "PET"}, labels=labels, file_ending=".nii.gz", numTraining=3)


def decathlon(folder):
    for number in (1, 2):
        scan(folder / f"imagesTr/BRATS_{number:03d}.nii.gz", number, channels=4)
        scan(folder / f"labelsTr/BRATS_{number:03d}.nii.gz", labels=(0, 1, 2, 3))
    scan(folder / "imagesTs/BRATS_485.nii.gz", channels=4)
    (folder / "imagesTr/._BRATS_001.nii.gz").write_bytes(b"of an archive made on a Mac")
    contents(
        folder,
        modality={"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        labels={"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        training=[],
    )


def mm_whs(folder):
    for domain, numbers in (("mr", (1001, 1002)), ("ct", (1001, 1002, 1003))):
        for number in numbers:
            place = folder / f"{domain}_train/{domain}_train_{number}"
            scan(place.with_name(f"{place.name}_image.nii.gz"), number)
            scan(place.with_name(f"{place.name}_label.nii.gz"), labels=(0, 205, 500, 600, 421, 420, 550, 820, 850))
    scan(folder / "ct_test/ct_test_2001_image.nii.gz")


def cross_moda(folder):
    for number in (1, 2):
        scan(folder / f"source_training/crossmoda_{number}_ceT1.nii.gz", number)
        scan(folder / f"source_training/crossmoda_{number}_Label.nii.gz", labels=(0, 1, 2))
    scan(folder / "target_training/crossmoda_106_hrT2.nii.gz", 106)
    scan(folder / "target_validation/crossmoda_211_hrT2.nii.gz")


def hvsmr(folder):
    for number in (0, 1):
        scan(folder / f"cropped/pat{number}_cropped.nii.gz", number)
        scan(folder / f"cropped/pat{number}_cropped_seg.nii.gz", labels=range(9))
        scan(folder / f"cropped/pat{number}_cropped_seg_endpoints.nii.gz", labels=range(9))


def isles(folder):
    name = "sub-strokecase0001_ses-0001"
    for channel in ("dwi", "adc"):
        scan(folder / f"sub-strokecase0001/ses-0001/dwi/{name}_{channel}.nii.gz", len(channel))
    scan(folder / f"sub-strokecase0001/ses-0001/anat/{name}_FLAIR.nii.gz")
    scan(folder / f"derivatives/sub-strokecase0001/ses-0001/{name}_msk.nii.gz", labels=(0, 1))


def soop(folder):
    for number in (1, 2):
        for name in ("TRACE", "ADC"):
            scan(folder / f"sub-{number}/dwi/sub-{number}_rec-{name}_dwi.nii.gz", number + len(name))
    name = "sub-2_space-TRACE_desc-lesion_mask.nii.gz"
    scan(folder / f"derivatives/lesion_masks/sub-2/dwi/{name}", labels=(0, 1))


def cycle_gan(folder):
    for number, name in enumerate(("trainA", "trainB", "testA", "testB")):
        (folder / name).mkdir(parents=True)
        for image in range(2 + number % 2):
            pixels = np.random.default_rng(10 * number + image).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{image}.png")


WRITERS = {
    writer.__name__: writer for writer in (nn_unet, decathlon, mm_whs, cross_moda, hvsmr, isles, soop, cycle_gan)
}

# Ids, channels of the two roles, classes, values of the first label.
EXPECTED = {
    "nn_unet": (
        ["liver_1", "liver_2", "liver_10", "liver_20"],
        ("CT", "PET"),
        {1: "liver", 2: "tumour"},
        {0, 1, 2},
    ),
    "decathlon": (
        ["BRATS_001", "BRATS_002"],
        ("FLAIR", "T1w"),
        {1: "edema", 2: "non-enhancing tumor", 3: "enhancing tumour"},
        {0, 1, 2, 3},
    ),
    "mm_whs": (
        [*(f"ct_train_{number}" for number in (1001, 1002, 1003)), "mr_train_1001", "mr_train_1002"],
        ("image", ""),
        None,
        set(range(8)),
    ),
    "cross_moda": (
        ["crossmoda_1", "crossmoda_2", "crossmoda_106"],
        ("image", ""),
        {1: "vestibular schwannoma", 2: "cochlea"},
        {0, 1, 2},
    ),
    "hvsmr": (["pat0", "pat1"], ("image", ""), None, set(range(9))),
    "isles": (["sub-strokecase0001_ses-0001"], ("adc", "dwi"), {1: "lesion"}, {0, 1}),
    "soop": (["sub-2"], ("adc", "dwi"), {1: "lesion"}, {0, 1}),
    "cycle_gan": (["trainA", "testA", "trainB", "testB"], ("image", ""), None, None),
}


def test_every_layout_is_tried_here():
    assert set(WRITERS) == set(EXPECTED) == {str(layout.__name__).rpartition(".")[2] for layout in LAYOUTS}


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_in_a_layout_is_a_data_set(tmp_path, name):
    WRITERS[name](tmp_path / "set")
    ids, channels, labels, values = EXPECTED[name]
    data = resolve_data(Data(path=str(tmp_path / "set")))
    assert (data.anatomy, data.tumour) == channels
    assert [entry.id for entry in data.volumes] == ids
    if labels is not None:
        assert data.labels == labels
    refs = volume_refs(data)
    for ref in refs:
        volume = ref.open()
        z, y, x = volume.shape
        assert (z, y, x) == (4, 5, 6) or name == "cycle_gan"
        image = "anatomy" if volume.has("anatomy") else "tumour"  # of the target domain
        assert volume.read(image, ((0, z), (0, y), (0, x))).std() > 0
        if name != "cycle_gan":
            assert (data.orientation, volume.lies) == ("RAS", "LPS")
    if values is not None:
        assert set(np.unique(refs[0].open().read("label", ((0, 4), (0, 5), (0, 6))))) == values


@pytest.mark.parametrize("name", WRITERS)
def test_a_layout_in_object_storage_and_its_yaml_are_the_same(tmp_path, name):
    WRITERS[name](tmp_path / "set")
    local = layout_of(str(tmp_path / "set"))
    assert local is not None
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/set/", f"/{name}/", recursive=True)
    try:
        assert layout_of(f"memory://{name}") == local
    finally:
        memory.rm(f"/{name}", recursive=True)
    (tmp_path / "set/dataset.yaml").write_text(yaml.safe_dump(local[1], sort_keys=False))
    written = resolve_data(Data(path=str(tmp_path / "set")))
    (tmp_path / "set/dataset.yaml").unlink()
    assert resolve_data(Data(path=str(tmp_path / "set"))) == written


def test_no_layout_is_taken_for_another(tmp_path):
    for name, writer in WRITERS.items():
        writer(tmp_path / name)
        found = described_at(str(tmp_path / name))
        assert found is not None
        (own,) = (layout for layout in LAYOUTS if str(layout.__name__).endswith(f".{name}"))
        assert found.layout == own.NAME
    assert layout_of(str(tmp_path)) is None


def test_a_dataset_yaml_wins_over_a_layout(tmp_path):
    mm_whs(tmp_path)
    text = "anatomy: image\ntumour: ''\nvolumes: [{id: mine, path: {image: ct_train/ct_train_1001_image.nii.gz}}]\n"
    (tmp_path / "dataset.yaml").write_text(text)
    assert [entry.id for entry in resolve_data(Data(path=str(tmp_path))).volumes] == ["mine"]


def test_a_preset_gives_way_to_what_a_layout_says(tmp_path):
    mm_whs(tmp_path)
    own = fields_of_its_own(Data(path=str(tmp_path)))
    assert own == {"anatomy", "tumour", "label", "labels", "classes", "orientation", "volumes"}


def test_mm_whs_has_two_domains_and_421_means_420(tmp_path):
    mm_whs(tmp_path)
    refs = volume_refs(Data(path=str(tmp_path)))
    assert [ref.entry.domain for ref in refs] == ["ct"] * 3 + ["mr"] * 2
    stored = np.asarray(nibabel.load(tmp_path / "ct_train/ct_train_1001_label.nii.gz").dataobj).T[:, ::-1, ::-1]
    read = refs[0].open().read("label", ((0, 4), (0, 5), (0, 6)))
    by_value = {0: 0, 500: 1, 600: 2, 420: 3, 421: 3, 550: 4, 205: 5, 820: 6, 850: 7}
    np.testing.assert_array_equal(read, np.vectorize(by_value.get)(stored))


def test_regions_of_nn_unet_are_the_last_that_lists_a_value(tmp_path):
    nn_unet(tmp_path)
    regions = {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    contents(tmp_path, channel_names={"0": "CT", "1": "CT"}, labels=regions, file_ending=".nii.gz")
    data = resolve_data(Data(path=str(tmp_path)))
    assert data.labels == {1: "whole tumour", 2: "core", 3: "enhancing"}
    assert (data.anatomy, data.tumour) == ("CT 0", "CT 1")


def test_variants_of_isles_and_cross_moda(tmp_path):
    isles(tmp_path / "a")
    (tmp_path / "a/rawdata").mkdir()
    (tmp_path / "a/sub-strokecase0001").rename(tmp_path / "a/rawdata/sub-strokecase0001")
    assert layout_of(str(tmp_path / "a"))[1]["volumes"][0]["path"]["dwi"].startswith("rawdata/sub-strokecase0001/")
    for source, target in (("training_source", "training_target"), ("TrainingSource", "TrainingTarget")):
        cross_moda(tmp_path / source)
        (tmp_path / source / "source_training").rename(tmp_path / source / source)
        (tmp_path / source / "target_training").rename(tmp_path / source / target)
        volumes = layout_of(str(tmp_path / source))[1]["volumes"]
        assert [(entry["domain"], "label" in entry) for entry in volumes] == [("T1", True), ("T1", True), ("T2", False)]


def test_cross_moda_2023_tells_two_parts_of_a_tumour_apart_which_are_one_here(tmp_path):
    for ending in ("ceT1", "Label"):
        labels = (0, 1, 2, 3) if ending == "Label" else ()
        scan(tmp_path / f"TrainingSource/crossmoda2023_ldn_1_{ending}.nii.gz", labels=labels)
    scan(tmp_path / "TrainingTarget/crossmoda2023_ukm_7_T2.nii.gz", 1)
    data = resolve_data(Data(path=str(tmp_path)))
    assert (data.source, data.target, data.classes) == ("T1", "T2", 3)
    source, target = (ref.open() for ref in volume_refs(data))
    whole = ((0, 4), (0, 5), (0, 6))
    stored = np.asarray(nibabel.load(tmp_path / "TrainingSource/crossmoda2023_ldn_1_Label.nii.gz").dataobj)
    found = source.read("label", whole)
    assert [(found == value).sum() for value in (1, 2)] == [np.isin(stored, (1, 2)).sum(), (stored == 3).sum()]
    assert not target.has("label")


def test_a_table_of_contents_that_is_wrong_is_named(tmp_path, mistake):
    nn_unet(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with mistake(str(tmp_path / "dataset.json"), "not readable as JSON"):
        resolve_data(Data(path=str(tmp_path)))
    contents(tmp_path, channel_names={"0": "CT"}, labels={"tumour": 1})
    with mistake(str(tmp_path), "looks like nnU-Net raw data", "dataset.json"):
        resolve_data(Data(path=str(tmp_path)))
    contents(tmp_path, channel_names={"0": "CT", "1": "PET"}, labels={"background": 0})
    with mistake(str(tmp_path), "nnU-Net raw data", "labels", "no class"):
        resolve_data(Data(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("writer", "at", "said"),
    [
        (isles, "derivatives", r"subjects of ISLES'22 \(sub-strokecase0001, \.\.\.\), but no folder derivatives/"),
        (soop, "derivatives", r"subjects of SOOP \(sub-1, \.\.\.\), but no folder derivatives/lesion_masks/"),
    ],
)
def test_a_stroke_set_without_its_masks_is_one_line(tmp_path, writer, at, said):
    writer(tmp_path / "set")
    (tmp_path / "set" / at).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=said) as caught:
        resolve_data(Data(path=str(tmp_path / "set")))
    assert str(caught.value).startswith(str(tmp_path / "set"))
    assert "\n" not in str(caught.value)


def test_a_map_of_tissues_beside_the_masks_is_a_label_of_its_own(tmp_path):
    isles(tmp_path)
    place = "derivatives/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001"
    scan(tmp_path / f"{place}_dseg.nii.gz", labels=(0, 2, 3, 16, 507))
    data = resolve_data(Data(path=str(tmp_path), anatomy="", tumour="dwi"))
    assert data.label == ["tissue", "lesion"]
    assert data.volumes[0].label == {"tissue": f"{place}_dseg.nii.gz", "lesion": f"{place}_msk.nii.gz"}
    (ref,) = volume_refs(data)
    volume = ref.open()
    assert (volume.has("anatomy"), volume.has("tumour")) == (False, True)
    read = volume.read("label", ((0, 4), (0, 5), (0, 6)))
    assert class_names(data.labels)[read.max()] == "lesion"
    assert {class_names(data.labels)[k] for k in np.unique(read)} <= {
        *("background", "white matter", "grey matter", "brain-stem", "lesion")
    }
