"""Maps of tissues made of images: what they are, of which volumes they are made, and what is told in a line."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from unmapped_brains import NAMED, SHAPE, describe_heads, head, image_of, lesion, write_heads

from metgan_dist.errors import UserError
from metgan_dist.recipe import Data, Phantom
from metgan_dist.volumes.dataset import fields_of_its_own, resolve_data, volume_refs
from metgan_dist.volumes.kmeans_tissue import brain_of, tissue_of
from metgan_dist.volumes.phantoms.dwi_signal import NUMBER, PARENCHYMA
from metgan_dist.volumes.phantoms.stroke import StrokeBrains
from metgan_dist.volumes.volume import whole

REAL = Path(__file__).resolve().parents[2] / "../shared/data/dwi"


@pytest.fixture
def folder(tmp_path):
    return write_heads(tmp_path)


def labels_of(folder, **data):
    opened = [ref.open() for ref in volume_refs(Data(path=str(folder), **data))]
    return {volume.id: volume.read("label", whole(volume)) for volume in opened}


def test_three_levels_are_told_apart_and_the_same_every_time():
    image = image_of(head())
    made = tissue_of(image)
    assert (made == head()).mean() > 0.99
    assert np.array_equal(brain_of(image), head() > 0)
    assert np.array_equal(made, tissue_of(image))
    assert made.dtype == np.uint8


def test_maps_of_phantoms_agree_with_the_true_ones_in_parenchyma_well_and_in_grey_matter_roughly():
    """Dice of the classes that intensities can tell apart: the deep grey matter's is that of white."""
    truly = {"CSF": ("CSF", "ventricles"), "white matter": ("white matter", "brain-stem", "deep grey matter")}
    truly["grey matter"] = ("grey matter", "cerebellum")
    phantom = Phantom(modality="stroke", volumes=3, shape=(20, 64, 64))
    brains, dice = StrokeBrains(phantom), {name: [] for name in (*truly, "parenchyma", "brain")}
    for number in range(phantom.volumes):
        case = brains.draw(number)
        ill = np.zeros(phantom.shape, bool) if case.lesion is None else case.lesion > 0
        made = tissue_of(case.dwi, ill, 230 / 64)
        for value, name in NAMED.items():
            true = np.isin(case.tissue, [NUMBER[own] for own in truly[name]])
            dice[name].append(overlap((made == value)[~ill], true[~ill]))
        for name, inside, true in (
            ("parenchyma", made > 1, np.isin(case.tissue, PARENCHYMA)),
            ("brain", made > 0, case.tissue > 0),
        ):
            dice[name].append(overlap(inside[~ill], true[~ill]))
    mean = {name: np.mean(own) for name, own in dice.items()}
    print({name: round(float(one), 3) for name, one in mean.items()})
    assert mean["brain"] > 0.96
    assert mean["parenchyma"] > 0.97
    assert min(mean["CSF"], mean["white matter"]) > 0.65
    assert mean["grey matter"] > 0.55


def overlap(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


@pytest.mark.skipif(not (REAL / "isles22").is_dir(), reason="the real images are not beside the repository")
def test_brains_and_parenchyma_of_real_images_are_found_roughly():
    """Images without skull, so that the brain is known; a healthy slab with a map of its own."""
    for case in sorted((REAL / "isles22").resolve().iterdir()):
        image, ill = (np.asarray(nibabel.load(case / f"{name}.nii.gz").dataobj).T for name in ("dwi", "lesion"))
        made = tissue_of(image, ill > 0, 2.0)
        assert overlap(made > 0, image > 0) > 0.9
        assert (made[ill > 0] > 1).mean() > 0.9
    slab = (REAL / "healthy-slab").resolve()
    image, drawn = (np.asarray(nibabel.load(slab / f"PEDS012_{name}.nii.gz").dataobj).T for name in ("dwi", "tissue"))
    assert overlap(tissue_of(image) > 1, drawn > 1) > 0.7


def test_lesions_are_left_out_of_what_is_fitted():
    """A lesion of a third of the brain: with it the median is the lesion's, and no class is left for fluid."""
    image, large = image_of(head()), np.zeros(SHAPE, bool)
    large[:, 4:44, 4:18] = True
    ill = np.where(large, 900, image)
    assert (tissue_of(ill, large)[~large] == head()[~large]).mean() > 0.99
    with pytest.raises(UserError, match="no brain is seen in it"):
        tissue_of(ill)


def test_lesions_lie_over_the_tissue_that_is_made_under_them(folder):
    read = labels_of(folder)
    data = resolve_data(Data(path=str(folder)))
    assert data.labels == {"tissue": NAMED, "lesion": {1: "lesion"}}
    assert (data.classes, data.label, data.tissue) == (5, ["tissue", "lesion"], {2: "white matter", 3: "grey matter"})
    assert (read["h"] == head()).mean() > 0.97
    assert ((read["s"] == 4) == (lesion() > 0)).all()
    assert (read["s"] == np.where(lesion(), 4, head()))[:, :, 26:].mean() > 0.97
    assert resolve_data(data) == data
    assert Data.model_validate({**data.model_dump(mode="json"), "path": str(folder)}).labels == data.labels


def test_lesions_alone_and_tissue_alone(folder):
    assert (labels_of(folder, label="lesion")["s"] == lesion()).all()
    alone = resolve_data(Data(path=str(folder), label="tissue"))
    assert (alone.labels, alone.classes, resolve_data(alone)) == (NAMED, 4, alone)
    assert np.array_equal(labels_of(folder, label="tissue")["s"][:, :, 26:], labels_of(folder)["s"][:, :, 26:])


def test_a_set_with_label_files_by_name_and_one_without_any_label(folder):
    describe_heads(folder, labels={"lesion": {1: "lesion"}}, s={"label": {"lesion": "lesion.nii.gz"}})
    assert set(np.unique(labels_of(folder)["s"])) == {0, 1, 2, 3, 4}
    describe_heads(folder, labels=None, s={"label": None, "healthy": True})
    assert resolve_data(Data(path=str(folder))).labels == NAMED
    assert (labels_of(folder)["h"] == head()).mean() > 0.97


def test_a_map_that_is_there_is_used_as_it_is(folder):
    drawn = np.full(SHAPE, 41, np.uint8)
    nibabel.save(nibabel.Nifti1Image(drawn.T, np.eye(4)), folder / "drawn.nii.gz")
    tissue = {24: "CSF", 2: "white matter", 41: "white matter", 3: "grey matter"}
    own = {"label": {"tissue": "drawn.nii.gz", "lesion": []}}
    described = {"labels": {"tissue": tissue, "lesion": {1: "lesion"}}, "s": {"label": {"lesion": "lesion.nii.gz"}}}
    describe_heads(folder, **described, h=own)
    refs = {ref.id: ref for ref in volume_refs(Data(path=str(folder)))}
    assert (refs["s"].makes_tissue, refs["h"].makes_tissue) == (True, False)
    alone = resolve_data(Data(path=str(folder), label="tissue"))
    assert (alone.labels, resolve_data(alone)) == (tissue, alone)
    read = labels_of(folder)
    assert (read["h"] == 2).all()
    assert (read["s"][:, :, 26:] == head()[:, :, 26:]).mean() > 0.97


def test_without_the_field_nothing_is_made(folder):
    describe_heads(folder, tissue_map=None)
    (ill,) = (ref.open() for ref in volume_refs(Data(path=str(folder))) if ref.id == "s")
    assert set(np.unique(ill.read("label", whole(ill)))) == {0, 1}
    preset = Data(path=str(folder), anatomy="", tumour="c0", label=["tissue", "lesion"])
    with pytest.raises(
        UserError, match=r"tissue, lesion\); name the values of each.*or set data\.tissue_map to kmeans"
    ):
        resolve_data(preset)
    describe_heads(folder, tissue_map=None, labels={"lesion": {1: "lesion"}}, s={"label": {"lesion": "lesion.nii.gz"}})
    with pytest.raises(UserError, match=r"'tissue' is none of the label files.*or set data\.tissue_map to kmeans"):
        resolve_data(preset)
    asked = preset.model_copy(update={"tissue_map": "kmeans"})
    assert "label" not in fields_of_its_own(asked)
    assert resolve_data(asked).classes == 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": None}, r"data\.tissue_map: the values of the labels have no names; say labels: \{1: lesion\}"),
        ({"labels": {"tissue": {2: "white matter"}, "lesion": {1: "lesion"}}}, r"data\.tissue_map: .* names no CSF"),
        ({"tumour": None, "anatomy": "c0"}, r"data\.tissue_map: volume 's' has no image .* name it in data\.tumour"),
        ({"s": {"domain": "mr"}, "h": {"domain": "ct"}}, r"data\.tissue_map: .* these are images of two domains"),
        ({"s": {"path": None}, "h": {"path": None, "label": "h.nii.gz"}}, r"data\.tissue_map: .* masks without images"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(folder, changes, said):
    describe_heads(folder, **changes)
    with pytest.raises(UserError, match=said) as caught:
        labels_of(folder, **({"tumour": ""} if "tumour" in changes else {}))
    assert "\n" not in str(caught.value)


def test_an_image_without_a_brain_is_named(folder):
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE[::-1], np.int16), np.eye(4)), folder / "h.nii.gz")
    with pytest.raises(UserError, match=r"data\.tissue_map: .*h\.nii\.gz: no brain is seen in it in which"):
        labels_of(folder)
