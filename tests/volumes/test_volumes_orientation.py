"""One array written in several orientations reads as one volume."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile

from metgan_dist.recipe import Data
from metgan_dist.volumes.dataset import volume_refs
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.volume import Spacing, whole

# x, y, z towards R, A, S; voxels of 0.5, 2 and 3 mm.
RAS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
SIZE = np.array([0.5, 2.0, 3.0])
ORIGIN = np.array([-7.0, 11.0, 13.0])


def affine_of(columns, origin):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.array(columns).T, origin
    return affine


# Worked out by hand: how the same voxels lie in the file, its axes in millimetres, and where its first voxel is.
FILES = {
    "RAS": (RAS, [[0.5, 0, 0], [0, 2, 0], [0, 0, 3]], ORIGIN),
    "LPS": (RAS[::-1, ::-1], [[-0.5, 0, 0], [0, -2, 0], [0, 0, 3]], ORIGIN + np.array([3 * 0.5, 4 * 2, 0])),
    # The second axis runs towards I, the third towards A.
    "LIA": (
        RAS.transpose(0, 2, 1)[::-1, ::-1],
        [[-0.5, 0, 0], [0, 0, -3], [0, 2, 0]],
        ORIGIN + np.array([3 * 0.5, 0, 5 * 3]),
    ),
    "ASR": (RAS.transpose(1, 2, 0), [[0, 2, 0], [0, 0, 3], [0.5, 0, 0]], ORIGIN),
}


def write(path: Path, sides: str, array: np.ndarray | None = None) -> str:
    stored, columns, origin = FILES[sides]
    if array is not None:
        # The values of another array in the places of RAS.
        stored = array.ravel()[stored]
    image = nibabel.Nifti1Image(np.ascontiguousarray(stored), affine_of(columns, origin))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    assert "".join(nibabel.aff2axcodes(nibabel.load(path).affine)) == sides
    return str(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("sides", FILES)
def test_a_file_of_any_orientation_reads_as_one(tmp_path, sides, suffix):
    volume = open_volume(write(tmp_path / f"v{suffix}", sides), orientation="RAS")
    assert volume.shape == (6, 5, 4)
    assert volume.lies == sides
    assert volume.spacing == Spacing(3.0, 2.0, 0.5, "millimeter")
    np.testing.assert_allclose(volume.affine, affine_of(np.diag(SIZE), ORIGIN))
    expected = RAS.transpose(2, 1, 0)
    np.testing.assert_array_equal(volume.read("c0", whole(volume)), expected, strict=True)
    region = ((1, 5), (2, 3), (0, 3))
    np.testing.assert_array_equal(volume.read("c0", region), expected[1:5, 2:3, 0:3], strict=True)


@pytest.mark.parametrize("wanted", ["LPS", "ASR", "SAL"])
def test_any_orientation_is_nibabels(tmp_path, wanted):
    path = write(tmp_path / "v.nii", "LIA")
    turned = nibabel.load(path)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(turned.affine), nibabel.orientations.axcodes2ornt(tuple(wanted))
    )
    turned = turned.as_reoriented(turn)
    volume = open_volume(path, orientation=wanted)
    np.testing.assert_array_equal(volume.read("c0", whole(volume)), np.asarray(turned.dataobj).T, strict=True)
    np.testing.assert_allclose(volume.affine, turned.affine)
    assert volume.spacing is not None
    zooms = turned.header.get_zooms()
    assert (volume.spacing.x, volume.spacing.y, volume.spacing.z) == pytest.approx(zooms)


@pytest.mark.parametrize("orientation", [None, "stored", "LIA"])
def test_a_file_that_lies_so_is_read_as_it_is(tmp_path, orientation):
    volume = open_volume(write(tmp_path / "v.nii", "LIA"), orientation=orientation)
    np.testing.assert_array_equal(volume.read("c0", whole(volume)), FILES["LIA"][0].T, strict=True)
    assert type(volume).__name__ == "Nifti"


def test_a_region_of_a_plain_file_is_read_where_it_lies(tmp_path, monkeypatch):
    path = write(tmp_path / "v.nii", "LIA")
    volume = open_volume(path, orientation="RAS")
    counted = []
    original = nibabel.openers.Opener.read

    def counting(self, *arguments):
        counted.append(original(self, *arguments))
        return counted[-1]

    monkeypatch.setattr(nibabel.openers.Opener, "read", counting)
    # One plane along y is one along the file's last axis, which lies in one piece.
    read = volume.read("c0", ((0, 6), (2, 3), (0, 4)))
    np.testing.assert_array_equal(read, RAS.transpose(2, 1, 0)[:, 2:3])
    assert sum(map(len, counted)) == read.nbytes


def test_channels_and_label_come_together_by_their_affines(tmp_path, mistake):
    label = (RAS % 3 == 1).astype(np.int16)
    write(tmp_path / "t1.nii.gz", "RAS")
    write(tmp_path / "t2.nii.gz", "LPS", RAS.ravel()[::-1].reshape(RAS.shape))
    write(tmp_path / "label.nii.gz", "ASR", label)
    entry = {"id": "p", "path": {"t1": "t1.nii.gz", "t2": "t2.nii.gz"}, "label": "label.nii.gz"}
    tree = {"path": str(tmp_path), "anatomy": "t1", "tumour": "t2", "volumes": [entry]}
    volume = volume_refs(Data.model_validate(tree | {"orientation": "RAS"}))[0].open()
    region = ((2, 6), (0, 5), (1, 3))
    cut = (slice(2, 6), slice(0, 5), slice(1, 3))
    np.testing.assert_array_equal(volume.read("anatomy", region), RAS.T[cut])
    np.testing.assert_array_equal(volume.read("tumour", region), (RAS.size - 1 - RAS).T[cut])
    np.testing.assert_array_equal(volume.read("label", region), label.T[cut])
    with mistake(str(tmp_path / "t2.nii.gz"), "voxels away", "`orientation`", "RAS and LPS"):
        volume_refs(Data.model_validate(tree))[0].open()


def test_what_does_not_say_how_it_lies_is_not_turned(tmp_path, mistake):
    tifffile.imwrite(tmp_path / "v.tif", RAS, photometric="minisblack", metadata={"axes": "ZYX"})
    with mistake(str(tmp_path / "v.tif"), "`orientation: RAS`", "leave out", "NIfTI"):
        open_volume(str(tmp_path / "v.tif"), orientation="RAS")
    path = write(tmp_path / "v.nii", "LPS")
    with mistake(path, "`axes: zyx`", "`orientation: RAS`", "leave one out"):
        open_volume(path, axes="zyx", orientation="RAS")


def test_the_voxel_size_is_the_headers_where_its_affine_has_another(tmp_path):
    path = write(tmp_path / "v.nii", "LIA")
    content = bytearray(Path(path).read_bytes())
    content[80:92] = np.array([1.5, 10, 1.25], "<f4").tobytes()  # pixdim[1:4], along x, z and y
    content[252:254] = np.array([0], "<i2").tobytes()  # qform_code: the affine is the sform's
    Path(path).write_bytes(content)
    assert open_volume(path).spacing == Spacing(1.25, 10, 1.5, "millimeter")
    assert open_volume(path, orientation="RAS").spacing == Spacing(10, 1.25, 1.5, "millimeter")


DATA = Path(__file__).resolve().parents[2] / "../shared/data"


@pytest.mark.skipif(not (DATA / "dwi/tissue-maps").is_dir(), reason="the real images are not beside the repository")
def test_a_real_label_map_in_freesurfers_numbers_is_turned_and_mapped():
    path = DATA / "dwi/tissue-maps/subject-01.nii.gz"
    labels = {3: "cortex", 42: "cortex", 2: "white matter", 41: "white matter", 4: "ventricles", 43: "ventricles"}
    entry = {"id": "s", "path": {"map": path.name}, "label": path.name}
    section = {"path": str(path.parent), "anatomy": "map", "tumour": "", "volumes": [entry], "orientation": "RAS"}
    volume = volume_refs(Data.model_validate(section | {"labels": labels, "unmapped": "background"}))[0].open()
    assert volume.lies == "LIA"
    region = ((100, 140), (60, 200), (40, 200))
    canonical = np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj).T[100:140, 60:200, 40:200]
    numbers = np.rint(canonical).astype(int)
    np.testing.assert_array_equal(volume.read("anatomy", region), canonical)
    read = volume.read("label", region)
    for number, values in enumerate(((3, 42), (2, 41), (4, 43)), start=1):
        assert (np.isin(numbers, values) == (read == number)).all()
        assert (read == number).any()
