"""NIfTI, written by nibabel, read back through Volume."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from metgan_dist.errors import DamagedFile
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.volume import Spacing, whole

REGION = ((1, 4), (3, 19), (7, 25))
CUT = tuple(slice(*r) for r in REGION)
AFFINE = np.array([[-0.9, 0, 0, 10], [0, 0.8, 0.1, 20], [0, 0, 5.0, -30], [0, 0, 0, 1.0]])


def write(path, xyz, *, units="mm", affine=AFFINE, byteorder="<", slope=None, inter=0.0):
    header = nibabel.Nifti1Header(endianness=byteorder)
    header.set_data_dtype(xyz.dtype)
    image = nibabel.Nifti1Image(xyz, affine, header)
    if units:
        image.header.set_xyzt_units(units)
    if slope is not None:
        image.header.set_slope_inter(slope, inter)
    nibabel.save(image, path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "f4"])
def test_axes_are_turned_to_z_y_x(tmp_path, voxels, suffix, byteorder, dtype):
    array = (voxels % 250).astype(dtype)
    path = tmp_path / f"v{suffix}"
    write(path, array.transpose(2, 1, 0), byteorder=byteorder)
    volume = open_volume(str(path))
    assert volume.shape == (5, 20, 30)
    assert volume.source_axes == "xyz"
    assert volume.chunks == ((1, 20, 30) if suffix == ".nii" else (5, 20, 30))
    read = volume.read("c0", REGION)
    assert read.dtype == volume.dtype == np.dtype(dtype)
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array[CUT])
    np.testing.assert_allclose(volume.affine, AFFINE, rtol=1e-6)
    assert volume.spacing is not None
    sizes = (volume.spacing.z, volume.spacing.y, volume.spacing.x)
    assert sizes == pytest.approx((np.hypot(5, 0.1), 0.8, 0.9))
    assert volume.spacing.unit == "millimeter"


@pytest.mark.parametrize(("units", "unit"), [("micron", "micrometer"), ("meter", "millimeter"), (None, "unknown")])
def test_units_of_the_header(tmp_path, voxels, units, unit):
    write(tmp_path / "v.nii", voxels.transpose(2, 1, 0), units=units, affine=np.diag([2.0, 3, 4, 1]))
    factor = 1000.0 if units == "meter" else 1.0
    assert open_volume(str(tmp_path / "v.nii")).spacing == Spacing(4 * factor, 3 * factor, 2 * factor, unit)
    stated = open_volume(str(tmp_path / "v.nii"), unit="micrometer").spacing
    assert stated is not None
    assert stated.unit == "micrometer"


@pytest.mark.parametrize("shape", [(30, 20, 5, 3), (30, 20, 5, 1, 3)])
def test_last_axis_is_channels(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    write(tmp_path / "v.nii.gz", array)
    volume = open_volume(str(tmp_path / "v.nii.gz"), channels=["t1", "t2", "flair"])
    assert volume.shape == (5, 20, 30)
    third = array.reshape(30, 20, 5, 3)[..., 2].transpose(2, 1, 0)
    np.testing.assert_array_equal(volume.read("flair", REGION), third[CUT])


def test_scale_of_the_header_is_applied_once(tmp_path, voxels):
    write(tmp_path / "v.nii.gz", voxels.astype(np.int16).transpose(2, 1, 0), slope=0.5, inter=-3)
    volume = open_volume(str(tmp_path / "v.nii.gz"))
    read = volume.read("c0", REGION)
    assert read.dtype == volume.dtype == np.float32
    expected = nibabel.load(tmp_path / "v.nii.gz").get_fdata().transpose(2, 1, 0)
    assert abs(expected).max() < 2e4  # the header's scale, not an accident of writing
    np.testing.assert_allclose(read, expected[CUT], rtol=1e-6)


def test_two_dimensional_file_is_one_plane(tmp_path, voxels):
    write(tmp_path / "v.nii", voxels[0].T.copy())
    volume = open_volume(str(tmp_path / "v.nii"))
    np.testing.assert_array_equal(volume.read("c0", whole(volume)), voxels[:1])


def test_plain_file_reads_only_the_region(tmp_path, monkeypatch):
    array = np.arange(64 * 64 * 64, dtype=np.int16).reshape(64, 64, 64)
    write(tmp_path / "v.nii", array.transpose(2, 1, 0))
    volume = open_volume(str(tmp_path / "v.nii"))
    counted = []
    original = nibabel.openers.Opener.read

    def counting(self, *arguments):
        data = original(self, *arguments)
        counted.append(len(data))
        return data

    monkeypatch.setattr(nibabel.openers.Opener, "read", counting)
    np.testing.assert_array_equal(volume.read("c0", ((10, 12), (0, 64), (0, 64))), array[10:12])
    assert sum(counted) == array[10:12].nbytes


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kept", [0, 100, 2000])
def test_empty_and_truncated_files_are_named(tmp_path, suffix, kept, mistake):
    path = tmp_path / f"v{suffix}"
    write(path, np.random.default_rng(0).integers(0, 9999, (30, 20, 5), dtype=np.int16))
    path.write_bytes(path.read_bytes()[:kept])
    with mistake(str(path), "the file is empty" if kept == 0 else "copy it again", kind=DamagedFile):
        volume = open_volume(str(path))
        volume.read("c0", whole(volume))


def test_files_joined_by_channel_must_lie_on_each_other(tmp_path, voxels, mistake):
    xyz = voxels.transpose(2, 1, 0)
    write(tmp_path / "dwi.nii.gz", xyz)
    write(tmp_path / "b0.nii.gz", (xyz % 100).astype(np.uint8))
    both = {"dwi": str(tmp_path / "dwi.nii.gz"), "b0": str(tmp_path / "b0.nii.gz")}
    volume = open_volume(both)
    assert volume.channels == ("dwi", "b0")
    assert volume.dtype_of("b0") == np.uint8
    assert volume.uri_of("b0") == both["b0"]
    np.testing.assert_array_equal(volume.read("b0", REGION), (voxels % 100)[CUT])
    write(tmp_path / "b0.nii.gz", xyz[:, :, :4])
    with mistake(both["b0"], "(4, 20, 30)", "(5, 20, 30)"):
        open_volume(both)
    write(tmp_path / "b0.nii.gz", xyz, affine=AFFINE @ np.diag([-1, 1, 1, 1]))
    with mistake(both["b0"], "affine"):
        open_volume(both)
