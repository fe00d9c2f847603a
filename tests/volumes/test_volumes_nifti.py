"""NIfTI, written by nibabel, read back through Volume."""

from __future__ import annotations

import os
import struct

import nibabel
import numpy as np
import pytest

from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.volumes import nifti
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


def test_of_flipped_bits_in_a_gz_all_are_refused_or_change_no_voxel(tmp_path):
    """Deflate has no redundancy, so most flips decode to other voxels; only the checksum at the end tells."""
    path = tmp_path / "v.nii.gz"
    random = np.random.default_rng(0)
    # A smooth image with some noise, as scans are: noise alone would be stored as it is.
    z, y, x = np.ogrid[:10, :40, :30]
    xyz = (200 + 90 * np.sin(z / 3) * np.cos(y / 9) + x + random.integers(0, 9, (10, 40, 30))).astype(np.int16).T
    write(path, xyz)
    content, wrong, refused = path.read_bytes(), 0, 0
    for at, bit in zip(random.integers(0, len(content), 40), random.integers(0, 8, 40), strict=True):
        flipped = bytearray(content)
        flipped[at] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            volume = open_volume(str(path))
            wrong += int((volume.read("c0", whole(volume)) != xyz.T).sum())
        except UserError:
            refused += 1
    assert wrong == 0
    assert refused >= 35


def test_a_gz_is_unpacked_for_its_checksum_once_and_a_changed_one_again(tmp_path, voxels, monkeypatch, mistake):
    path = tmp_path / "v.nii.gz"
    write(path, voxels.transpose(2, 1, 0))
    opened = []
    whole_gzip = nifti.gzip.open
    monkeypatch.setattr(nifti.gzip, "open", lambda path: opened.append(path) or whole_gzip(path))
    for _ in range(3):
        open_volume(str(path)).read("c0", REGION)
    assert opened == [path]
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # of the checksum itself
    path.write_bytes(content)
    os.utime(path, ns=(0, 0))
    with mistake(str(path), "CRC", "copy it again", kind=DamagedFile):
        open_volume(str(path)).read("c0", REGION)
    assert len(opened) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_an_affine_that_places_no_voxel_is_named(tmp_path, voxels, value, mistake):
    path = tmp_path / "v.nii"
    affine = AFFINE.copy()
    affine[0] = value
    write(path, voxels.transpose(2, 1, 0))
    content = bytearray(path.read_bytes())
    content[252:256] = struct.pack("<hh", 0, 1)  # qform_code, sform_code
    content[280:296] = struct.pack("<4f", *affine[0])  # srow_x
    path.write_bytes(content)
    with mistake(str(path), "affine", "correct the header"):
        open_volume(str(path))
