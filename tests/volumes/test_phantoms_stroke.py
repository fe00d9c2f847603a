"""Stroke phantoms: brains of the package's own and over real maps, with truth that the signal shows, and the same."""

import itertools

import nibabel
import numpy as np
import pytest

from metgan_dist.errors import UserError
from metgan_dist.recipe import Data, Phantom
from metgan_dist.recipe.mistakes import first_mistake
from metgan_dist.volumes.dataset import as_described, resolve_data, volume_refs
from metgan_dist.volumes.labelled import open_looked_at
from metgan_dist.volumes.phantoms import phantom_grid, write_phantom
from metgan_dist.volumes.phantoms.dwi_signal import NUMBER, PARENCHYMA, TISSUES
from metgan_dist.volumes.phantoms.real_brain import LesionMask, TissueMap
from metgan_dist.volumes.phantoms.stroke import FEWEST, StrokeBrains, plans_of

SHAPE = (20, 64, 64)


def phantom(**fields):
    return Phantom(modality="stroke", **{"volumes": 6, "shape": SHAPE, **fields})


@pytest.fixture(scope="module")
def cases():
    brains = StrokeBrains(phantom(shape=(30, 96, 96)))
    return [(plan, brains.draw(plan.number)) for plan in brains.plans]


def over_white(case, where):
    return np.median(case.dwi[where]) / np.median(case.dwi[case.tissue == NUMBER["white matter"]])


def test_a_brain_has_all_named_tissues_and_signals_as_measured(cases):
    for _, case in cases:
        assert set(np.unique(case.tissue)) == set(range(len(TISSUES)))
        assert 0.2 < over_white(case, case.tissue == NUMBER["ventricles"]) < 0.85
        assert 0.9 < over_white(case, case.tissue == NUMBER["grey matter"]) < 1.35
        assert over_white(case, case.tissue == 0) < 0.2
        # The cerebellum lies low and behind, where y of the affine is small.
        z, y, _ = np.nonzero(case.tissue == NUMBER["cerebellum"])
        brain_z, brain_y, _ = np.nonzero(case.tissue)
        assert z.mean() < brain_z.mean()
        assert y.mean() < brain_y.mean()


def test_lesions_are_bright_and_lie_in_tissue_and_healthy_brains_are_bright_elsewhere(cases):
    ill = [case for plan, case in cases if not plan.healthy]
    healthy = [case for plan, case in cases if plan.healthy]
    assert len(ill) == len(healthy) == 3
    for case in ill:
        lesion = case.lesion > 0
        assert np.isin(case.tissue[lesion], PARENCHYMA).all()
        assert over_white(case, lesion) > 1.1
        assert lesion.any(axis=(0, 1)).nonzero()[0].size < 60  # on one side
    for case in healthy:
        assert case.lesion is None
        # What a threshold would take for a lesion: as bright as the median lesion.
        assert (case.dwi[case.tissue > 0] > 1.5 * np.median(case.dwi[case.tissue == NUMBER["white matter"]])).sum() > 50


def test_the_same_number_is_the_same_patient_and_others_are_others():
    brains = StrokeBrains(phantom())
    again = StrokeBrains(phantom(volumes=3)).draw(2)
    first, other = brains.draw(2), brains.draw(1)
    assert (first.dwi == again.dwi).all()
    assert (first.tissue == again.tissue).all()
    assert (first.tissue != other.tissue).mean() > 0.02
    assert (StrokeBrains(phantom(seed=1)).draw(1).tissue == first.tissue).all()  # seeds count on


def test_a_data_set_is_written_listed_and_left_alone(tmp_path):
    asked = phantom(healthy=0.5)
    folder = write_phantom(asked, str(tmp_path / "set"))
    data = resolve_data(Data(path=folder, anatomy=""))
    assert (data.tumour, data.label, data.classes) == ("dwi", ["tissue", "lesion"], len(TISSUES) + 1)
    assert sorted(data.tissue.values()) == sorted(TISSUES[number] for number in PARENCHYMA)
    volumes = [open_looked_at(ref) for ref in volume_refs(data)]
    assert [entry.healthy for entry in data.volumes].count(True) == 3
    for entry, volume in zip(data.volumes, volumes, strict=True):
        read = volume.read("label", tuple((0, length) for length in SHAPE))
        assert (read.max() == len(TISSUES)) == (not entry.healthy)
        assert phantom_grid(asked) == (volume.shape, (volume.spacing.z, volume.spacing.y, volume.spacing.x))
    assert as_described(Data(anatomy="", phantom=asked)).volumes == data.volumes  # before any is drawn
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.gz")}
    write_phantom(phantom(healthy=0.5, volumes=7), folder)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(resolve_data(Data(path=folder, anatomy="")).volumes) == 7
    # A patient of whom a file was written last is not there.
    (tmp_path / "set/case-0001/case.json").unlink()
    kept = (tmp_path / "set/case-0001/dwi.nii.gz").read_bytes()
    (tmp_path / "set/case-0001/dwi.nii.gz").write_bytes(b"half")
    write_phantom(phantom(healthy=0.5, volumes=7), folder)
    assert (tmp_path / "set/case-0001/dwi.nii.gz").read_bytes() == kept


@pytest.fixture
def real(tmp_path):
    """Maps of four people, in two orientations, and masks of ten: white matter in cortex, a chamber, a stem."""
    for number in range(4):
        values = np.zeros((70, 90, 80), np.float32)  # x, y, z; 2 mm
        values[2:-2, 2:-2, 2:-2] = 24
        values[4:-4, 4:-4, 5:-5] = 3
        values[8:-8, 8:-8, 9:-9] = 2 if number % 2 else 41
        values[30:40, 40 + number : 50 + number, 35:50] = 4
        values[32:38, 30:36, 0:9] = 16
        values[0, 0, 0] = 507  # outside of the brain
        image = nibabel.Nifti1Image(values, np.diag([2.0, 2, 2, 1]))
        if number == 0:
            image = image.as_reoriented(nibabel.orientations.axcodes2ornt("LIA"))
        (tmp_path / "maps").mkdir(exist_ok=True)
        nibabel.save(image, tmp_path / f"maps/person-{number}.nii.gz")
    for number in range(10):
        mask = np.zeros((80, 95, 70), np.uint8)  # 2 mm
        mask[50:60, 40 + number : 52 + number, 40:50] = 1
        (tmp_path / "masks").mkdir(exist_ok=True)
        affine = np.array([[-2.0, 0, 0, 79], [0, 2, 0, -110], [0, 0, 2, -60], [0, 0, 0, 1]])
        nibabel.save(nibabel.Nifti1Image(mask, affine), tmp_path / f"masks/m{number}.nii.gz")
    return {"tissue_maps": str(tmp_path / "maps"), "lesion_masks": str(tmp_path / "masks")}


def test_nobody_who_is_tested_shares_a_map_or_a_mask_with_who_is_trained_on(real):
    plans = plans_of(phantom(volumes=40, **real))
    assert {plan.split for plan in plans} == {"train", "val", "test"}
    by_side = {side: [plan for plan in plans if plan.split == side] for side in ("train", "val", "test")}
    maps = {side: {plan.tissue for plan in own} for side, own in by_side.items()}
    masks = {side: {mask for plan in own for mask in plan.masks} for side, own in by_side.items()}
    for own in (maps, masks):
        assert not own["train"] & own["test"]
        assert not own["train"] & own["val"]
        assert not own["val"] & own["test"]
    assert (len(maps["train"]), len(masks["train"]), len(masks["test"])) == (2, 7, 2)
    assert all(plan.id.startswith("person-") for plan in plans)
    ill = [plan for plan in by_side["train"] if not plan.healthy]
    assert len({plan.masks[0] for plan in ill}) > 4  # others for others


def test_cases_over_real_maps_have_their_tissues_and_a_real_lesion_in_them(real):
    brains = StrokeBrains(phantom(volumes=8, **real))
    drawn = {plan.id: brains.draw(plan.number) for plan in brains.plans}
    tissues = [NUMBER[name] for name in ("background", "white matter", "grey matter", "CSF", "ventricles")]
    shapes = []
    for plan in brains.plans:
        case = drawn[plan.id]
        assert set(tissues) <= set(np.unique(case.tissue))
        assert (case.lesion is None) == plan.healthy
        if case.lesion is not None:
            assert np.count_nonzero(case.lesion) >= FEWEST
            assert np.isin(case.tissue[case.lesion > 0], PARENCHYMA).all()
            assert over_white(case, case.lesion > 0) > 1.1
        shapes.append(case.tissue > 0)
    assert all((one != other).mean() > 0.005 for one, other in itertools.pairwise(shapes))


def test_a_map_in_another_orientation_is_turned_and_a_mask_lies_on_its_side(real, tmp_path):
    turned, plain = (TissueMap(f"{real['tissue_maps']}/person-{number}.nii.gz") for number in (0, 1))
    assert turned.tissue.shape == plain.tissue.shape
    stem = [np.argwhere(one.tissue == NUMBER["brain-stem"]).mean(axis=0) for one in (turned, plain)]
    np.testing.assert_allclose(stem[0], stem[1])
    assert stem[0][0] < 10  # low
    axes = tuple((np.arange(length) + 0.5) * 4.0 for length in (20, 24, 20))
    tissue = np.zeros((20, 24, 20), np.uint8)
    tissue[2:18, 2:22, 2:18] = NUMBER["white matter"]
    mask = LesionMask(f"{real['lesion_masks']}/m0.nii.gz")
    # x of the mask is 79 - 2 * 50 to 79 - 2 * 59: -21 to -39 mm, left, which is the lower half of x.
    left, right = (np.argwhere(mask.laid_into(tissue, axes, mirrored=mirrored)) for mirrored in (False, True))
    assert len(left) == pytest.approx(len(right), rel=0.3)
    assert left[:, 2].max() < 10 <= right[:, 2].min()
    # -39 to -21 of -71 to 71 is 23 to 35 % of the way from voxel 2 to 17: 5.4 to 7.3.
    assert (left[:, 2].min(), left[:, 2].max()) == (6, 7)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tissue_maps": "/nowhere"}, r"data\.phantom\.tissue_maps: /nowhere: not found"),
        ({"lesion_masks": "{tmp}/two"}, r"data\.phantom\.lesion_masks: .*: 2 NIfTI file\(s\); three at least"),
        ({"tissue_maps": "{tmp}/masks"}, r"no voxel has a number of FreeSurfer's white matter"),
        ({"lesion_masks": "{tmp}/empty"}, r"m.\.nii\.gz: an empty mask"),
        (
            {"lesion_masks": "{tmp}/far"},
            r"data\.phantom\.lesion_masks: of none of \d masks 20 voxels lie in the tissue",
        ),
    ],
)
def test_useless_maps_and_masks_are_one_line(real, tmp_path, fields, said):
    for name, count, at in (("two", 2, 20), ("empty", 4, None), ("far", 4, 0)):
        (tmp_path / name).mkdir()
        for number in range(count):
            mask = np.zeros((30, 30, 30), np.uint8)
            if at is not None:
                mask[at, at, at] = 1
            nibabel.save(nibabel.Nifti1Image(mask, np.diag([2.0, 2, 2, 1])), tmp_path / name / f"m{number}.nii.gz")
    asked = phantom(healthy=0, **{name: path.format(tmp=tmp_path) for name, path in fields.items()})
    with pytest.raises(UserError, match=said) as caught:
        write_phantom(asked, str(tmp_path / "set"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set/dataset.yaml").exists()


def test_fields_of_stroke_phantoms_are_for_them_alone_and_others_are_known_as_before():
    with pytest.raises(ValueError, match="validation error") as caught:
        Data.model_validate({"phantom": {"modality": "brain-dwi", "healthy": 0.5}})
    assert "healthy: brain-dwi phantoms know nothing of it" in first_mistake(caught.value)
    assert set(Phantom().told()) == {"modality", "volumes", "shape", "seed"}
    assert Data().told()["phantom"] == Phantom().told()
