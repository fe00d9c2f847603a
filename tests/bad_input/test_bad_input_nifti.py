"""NIfTI files whose header or voxels are damaged: each is refused in one line, before anything of its size is held."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
from damages import read_all, refused

# Fields of the header of 348 bytes: where they are, and of what type.
FIELDS = {
    "dim": (40, "<8h"),
    "datatype": (70, "<h"),
    "bitpix": (72, "<h"),
    "pixdim": (76, "<8f"),
    "vox_offset": (108, "<f"),
    "scl": (112, "<2f"),
    "codes": (252, "<2h"),
    "sform": (280, "<12f"),
    "magic": (344, "<4s"),
}
NAN, INF = float("nan"), float("inf")
AFFINE = (0, 0, 2, 0, 0, 2, 0, 0, 2, 0, 0, 0)

CASES = {
    "no axes": ({"dim": (0, 1, 1, 1, 1, 1, 1, 1)}, "NIfTI|axes"),
    "more axes than there can be": ({"dim": (9, 4, 5, 6, 1, 1, 1, 1)}, "no readable NIfTI"),
    "a negative number of axes": ({"dim": (-3, 4, 5, 6, 1, 1, 1, 1)}, "NIfTI|axes"),
    "an edge of 0": ({"dim": (3, 4, 0, 6, 1, 1, 1, 1)}, "no voxel"),
    "a negative edge": ({"dim": (3, 4, -5, 6, 1, 1, 1, 1)}, "no voxel|NIfTI"),
    "one axis": ({"dim": (1, 120, 1, 1, 1, 1, 1, 1)}, "axes"),
    "six axes": ({"dim": (6, 4, 5, 6, 1, 1, 2, 1)}, "axes"),
    "a time axis": ({"dim": (5, 4, 5, 3, 2, 1, 1, 1)}, "time|axes|t"),
    "more voxels than the file has": ({"dim": (3, 4, 5, 7, 1, 1, 1, 1)}, "truncated: its header says"),
    "more voxels than any memory has": ({"dim": (3, 32767, 32767, 32767, 1, 1, 1, 1)}, "truncated: its header says"),
    "a type that is none": ({"datatype": (4097,)}, "NIfTI"),
    "no type": ({"datatype": (0,)}, "NIfTI|type"),
    "bits": ({"datatype": (1,), "bitpix": (1,)}, "NIfTI|type"),
    "colours": ({"datatype": (128,), "bitpix": (24,)}, "voxels of type"),
    "complex numbers": ({"datatype": (32,), "bitpix": (64,)}, "voxels of type"),
    "voxels before their header": ({"vox_offset": (100.0,)}, "NIfTI|cannot be read|offset"),
    "voxels beyond the end": ({"vox_offset": (10000.0,)}, "truncated: its header says"),
    "voxels nowhere": ({"vox_offset": (NAN,)}, "NIfTI|cannot be read|offset"),
    "voxels infinitely far": ({"vox_offset": (INF,)}, "NIfTI|cannot be read|offset"),
    "an offset that is no number": ({"scl": (2.0, NAN)}, "scl|scale|slope|inter"),
    "a flat affine": ({"codes": (0, 1), "sform": (0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0)}, "affine"),
    "an affine with NaN": ({"codes": (0, 1), "sform": (NAN, *AFFINE[1:])}, "affine"),
    "an affine without end": ({"codes": (0, 1), "sform": (INF, *AFFINE[1:])}, "affine"),
    "a voxel whose size is no number": ({"pixdim": (1, NAN, 2, 2, 1, 1, 1, 1)}, "affine|size|spacing"),
    "a voxel of infinite size": ({"pixdim": (1, INF, 2, 2, 1, 1, 1, 1)}, "affine|size|spacing"),
    "another magic": ({"magic": (b"abc\0",)}, "NIfTI"),
}


@pytest.fixture
def sound(tmp_path):
    """The bytes of a file of 4 x 5 x 6 voxels (x, y, z) of 16 bits and 2 mm."""
    voxels = np.arange(120, dtype="int16").reshape(4, 5, 6)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2, 2, 2, 1])), tmp_path / "sound.nii")
    assert read_all(tmp_path / "sound.nii")["c0"].sum() == voxels.sum()
    return (tmp_path / "sound.nii").read_bytes()


def changed(content, fields):
    """A file with other values in its header."""
    content = bytearray(content)
    for name, values in fields.items():
        at, kind = FIELDS[name]
        struct.pack_into(kind, content, at, *values)
    return bytes(content)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("case", CASES)
def test_a_header_that_cannot_be_is_a_line(tmp_path, sound, case, suffix):
    fields, said = CASES[case]
    path = tmp_path / f"damaged{suffix}"
    content = changed(sound, fields)
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    refused(path, said)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.nii", b"", "empty"),
        ("empty.nii.gz", b"", "empty"),
        ("text.nii", b"no image\n" * 100, "NIfTI"),
        ("text.nii.gz", b"no image\n" * 100, "NIfTI"),
        ("packed-text.nii.gz", "packed", "NIfTI"),
        ("half-a-header.nii", None, "NIfTI"),
        ("folder.nii", "folder", "no volume|folder"),
        ("twice.nii.gz", "twice", "NIfTI"),
    ],
)
def test_what_is_no_nifti_is_a_line(tmp_path, sound, name, content, said):
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
        (path / "a.txt").write_text("")
    else:
        made = {
            None: sound[:170],
            "packed": gzip.compress(b"no image\n" * 100),
            "twice": gzip.compress(gzip.compress(sound)),
        }
        path.write_bytes(made.get(content, content))
    refused(path, said)
