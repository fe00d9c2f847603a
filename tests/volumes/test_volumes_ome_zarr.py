"""OME-Zarr, written by zarr itself, read back through Volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from metgan_dist.errors import DamagedFile
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.volume import Spacing, whole

REGION = ((1, 4), (3, 19), (7, 25))
UNITS = {"z": "micrometer", "y": "micrometer", "x": "micrometer"}


def write(
    folder: Path, array: np.ndarray, axes: str, *, version: int = 2, channels=(), shards=None, chunks=None, **extra
):
    """An OME-Zarr image with the levels s0 and s1 (every second row and column), scale (5, 2, 2)."""
    group = zarr.open_group(str(folder), mode="w", zarr_format=version)
    types = {"c": "channel", "t": "time"}
    listed = [{"name": a, "type": types.get(a, "space"), **({"unit": UNITS[a]} if a in UNITS else {})} for a in axes]
    size = {"z": 5.0, "y": 2.0, "x": 2.0}
    datasets = []
    for level in (0, 1):
        step = tuple(slice(None, None, 2**level) if a in "yx" else slice(None) for a in axes)
        data = array[step]
        made = group.create_array(
            f"s{level}",
            shape=data.shape,
            dtype=data.dtype,
            chunks=chunks or tuple({"z": 2, "y": 8, "x": 8}.get(a, 1) for a in axes),
            shards=shards,
            fill_value=0,
            **extra,
        )
        made[...] = data
        scale = [size.get(a, 1.0) * (2**level if a in "yx" else 1) for a in axes]
        datasets.append({"path": f"s{level}", "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    attributes = {"multiscales": [{"axes": listed, "datasets": datasets, "version": "0.4"}]}
    if channels:
        attributes["omero"] = {"channels": [{"label": name} for name in channels]}
    group.attrs.update({"ome": attributes} if version == 3 else attributes)
    return group


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("axes", ["zyx", "tczyx", "czyx", "xyzc", "yxcz"])
def test_every_axes_order_gives_the_same_voxels(tmp_path, voxels, version, axes):
    both = np.stack([voxels, voxels + 5000])  # c, z, y, x
    full = both[np.newaxis]  # t, c, z, y, x
    array = full.transpose(["tczyx".index(a) for a in axes] + ["tczyx".index(a) for a in "tczyx" if a not in axes])
    array = array[(..., *[0] * sum(a not in axes for a in "tczyx"))]
    write(tmp_path / "a.ome.zarr", array, axes, version=version, channels=("auto", "signal") if "c" in axes else ())
    volume = open_volume(str(tmp_path / "a.ome.zarr"))
    assert volume.shape == (5, 20, 30)
    assert volume.source_axes == axes
    assert volume.chunks == (2, 8, 8)
    assert volume.spacing == Spacing(5.0, 2.0, 2.0, "micrometer")
    assert volume.channels == (("auto", "signal") if "c" in axes else ("c0",))
    cut = tuple(slice(*r) for r in REGION)
    for number, channel in enumerate(volume.channels):
        np.testing.assert_array_equal(volume.read(channel, REGION), both[number][cut], strict=True)


def test_sharded_volume_reads_and_reports_inner_chunks(tmp_path, voxels):
    write(tmp_path / "s.zarr", voxels, "zyx", version=3, chunks=(1, 8, 8), shards=(2, 16, 16))
    volume = open_volume(str(tmp_path / "s.zarr"))
    assert volume.chunks == (1, 8, 8)
    np.testing.assert_array_equal(volume.read("c0", whole(volume)), voxels)


def test_pyramid_level_by_its_path(tmp_path, voxels, mistake):
    write(tmp_path / "p.zarr", voxels, "zyx")
    volume = open_volume(str(tmp_path / "p.zarr"), level="s1")
    np.testing.assert_array_equal(volume.read("c0", whole(volume)), voxels[:, ::2, ::2])
    assert volume.spacing == Spacing(5.0, 4.0, 4.0, "micrometer")
    with mistake(str(tmp_path / "p.zarr"), "no level '2'", "s0, s1"):
        open_volume(str(tmp_path / "p.zarr"), level="2")


def test_two_dimensional_image_is_one_plane(tmp_path, voxels):
    write(tmp_path / "flat.zarr", voxels[0], "yx")
    volume = open_volume(str(tmp_path / "flat.zarr"))
    assert volume.shape == (1, 20, 30)
    np.testing.assert_array_equal(volume.read("c0", ((0, 1), (2, 5), (4, 9))), voxels[:1, 2:5, 4:9])


@pytest.mark.parametrize("dtype", [">u2", ">f4", "<f8", "u1", "<i2"])
def test_stored_byte_order_comes_out_native(tmp_path, voxels, dtype):
    array = (voxels % 251).astype(dtype)
    write(tmp_path / "b.zarr", array, "zyx")
    volume = open_volume(str(tmp_path / "b.zarr"))
    read = volume.read("c0", whole(volume))
    assert read.dtype == volume.dtype == np.dtype(dtype).newbyteorder("=")
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


def test_scale_of_the_multiscale_and_units_multiply(tmp_path, voxels):
    group = write(tmp_path / "u.zarr", voxels, "zyx")
    attributes = group.attrs.asdict()
    scales = attributes["multiscales"][0]
    scales["coordinateTransformations"] = [{"type": "scale", "scale": [2.0, 10.0, 10.0]}]
    for axis in scales["axes"]:
        axis["unit"] = "nanometer"
    group.attrs.update(attributes)
    spacing = open_volume(str(tmp_path / "u.zarr")).spacing
    assert spacing is not None
    assert spacing.unit == "micrometer"
    assert (spacing.z, spacing.y, spacing.x) == pytest.approx((0.01, 0.02, 0.02))
    assert open_volume(str(tmp_path / "u.zarr"), spacing=(3, 1, 1), unit="millimeter").spacing == Spacing(
        3, 1, 1, "millimeter"
    )


def chunk_file(folder: Path, version: int) -> Path:
    return folder / ("s0/0.1.1" if version == 2 else "s0/c/0/1/1")


@pytest.mark.parametrize("version", [2, 3])
def test_absent_chunk_file_is_named_only_when_it_is_needed(tmp_path, voxels, version, mistake):
    folder = tmp_path / "m.zarr"
    write(folder, voxels, "zyx", version=version)
    gone = chunk_file(folder, version)
    gone.unlink()
    volume = open_volume(str(folder))
    with mistake(str(gone), "chunk file is missing", "data.missing_chunks", kind=DamagedFile):
        volume.read("c0", ((0, 5), (0, 20), (0, 30)))
    np.testing.assert_array_equal(volume.read("c0", ((2, 5), (0, 20), (0, 30))), voxels[2:])
    filled = open_volume(str(folder), missing_chunks="fill").read("c0", ((0, 2), (8, 16), (8, 16)))
    assert not filled.any()


def test_absent_shard_is_named(tmp_path, voxels, mistake):
    folder = tmp_path / "m.zarr"
    write(folder, voxels, "zyx", version=3, chunks=(1, 8, 8), shards=(2, 16, 16))
    (folder / "s0/c/1/0/1").unlink()
    with mistake(str(folder / "s0/c/1/0/1"), "missing", kind=DamagedFile):
        open_volume(str(folder)).read("c0", ((3, 4), (0, 1), (20, 21)))


def test_chunk_of_zeros_that_is_there_is_no_damage(tmp_path):
    write(tmp_path / "z.zarr", np.zeros((5, 20, 30), np.uint16), "zyx", config={"write_empty_chunks": True})
    volume = open_volume(str(tmp_path / "z.zarr"))
    assert not volume.read("c0", whole(volume)).any()


def test_empty_label_chunks_are_left_out_by_writers_and_read_as_background(tmp_path, voxels):
    write(tmp_path / "i.ome.zarr", voxels, "zyx")
    label = np.zeros((5, 20, 30), np.uint8)
    label[0, 0, 0] = 1
    write(tmp_path / "i.ome.zarr/labels/blobs", label, "zyx")
    assert not (tmp_path / "i.ome.zarr/labels/blobs/s0/1.1.1").exists()
    volume = open_volume(str(tmp_path / "i.ome.zarr/labels/blobs"))
    np.testing.assert_array_equal(volume.read("c0", whole(volume)), label)


@pytest.mark.parametrize("content", [b"", b"not a chunk"])
def test_damaged_chunk_file_is_named(tmp_path, voxels, content, mistake):
    folder = tmp_path / "d.zarr"
    write(folder, voxels, "zyx")
    chunk_file(folder, 2).write_bytes(content)
    with mistake(str(chunk_file(folder, 2)), "cannot be read", kind=DamagedFile):
        open_volume(str(folder)).read("c0", ((0, 5), (0, 20), (0, 30)))


def test_only_chunks_of_the_region_are_opened(tmp_path, voxels):
    folder = tmp_path / "l.zarr"
    write(folder, voxels, "zyx")
    for chunk in (folder / "s0").glob("*.*.*"):
        if not chunk.name.startswith("0.0."):
            chunk.write_bytes(b"unreadable")
    volume = open_volume(str(folder))
    np.testing.assert_array_equal(volume.read("c0", ((0, 2), (0, 8), (0, 30))), voxels[:2, :8])


def test_what_is_no_image_says_so(tmp_path, voxels, mistake):
    zarr.open_group(str(tmp_path / "empty.zarr"), mode="w", zarr_format=2)
    with mistake(str(tmp_path / "empty.zarr"), "no multiscales"):
        open_volume(str(tmp_path / "empty.zarr"))
    zarr.create_array(str(tmp_path / "array.zarr"), data=voxels)
    with mistake(str(tmp_path / "array.zarr"), "no multiscales"):
        open_volume(str(tmp_path / "array.zarr"))
    (tmp_path / "folder.zarr").mkdir()
    with mistake(str(tmp_path / "folder.zarr"), "multiscales"):
        open_volume(str(tmp_path / "folder.zarr"))
    collection = zarr.open_group(str(tmp_path / "c.zarr"), mode="w", zarr_format=2)
    collection.attrs["bioformats2raw.layout"] = 3
    with mistake(str(tmp_path / "c.zarr"), "no multiscales", "/0"):
        open_volume(str(tmp_path / "c.zarr"))
    (tmp_path / "torn.zarr").mkdir()
    (tmp_path / "torn.zarr/zarr.json").write_text('{"zarr_format": 3, "node_')
    with mistake(str(tmp_path / "torn.zarr"), "metadata", kind=DamagedFile):
        open_volume(str(tmp_path / "torn.zarr"))


def test_lost_level_is_damage(tmp_path, voxels, mistake):
    write(tmp_path / "n.zarr", voxels, "zyx")
    (tmp_path / "n.zarr/s0/.zarray").unlink()
    with mistake(str(tmp_path / "n.zarr/s0"), "no array", kind=DamagedFile):
        open_volume(str(tmp_path / "n.zarr"))


def test_unknown_channel_lists_the_channels(tmp_path, voxels, mistake):
    write(tmp_path / "k.zarr", np.stack([voxels, voxels]), "czyx", channels=("auto", "signal"))
    with mistake(str(tmp_path / "k.zarr"), "no channel 'tumour'", "auto, signal"):
        open_volume(str(tmp_path / "k.zarr")).read("tumour", REGION)


def test_time_series_is_refused_not_cut(tmp_path, voxels, mistake):
    write(tmp_path / "t.zarr", np.stack([voxels, voxels]), "tzyx")
    with mistake(str(tmp_path / "t.zarr"), "t of length 2"):
        open_volume(str(tmp_path / "t.zarr"))


def test_region_outside_is_the_callers_mistake(tmp_path, voxels):
    write(tmp_path / "r.zarr", voxels, "zyx")
    volume = open_volume(str(tmp_path / "r.zarr"))
    for wrong in (((0, 6), (0, 1), (0, 1)), ((-1, 1), (0, 1), (0, 1)), ((2, 2), (0, 1), (0, 1))):
        with pytest.raises(ValueError, match="outside"):
            volume.read("c0", wrong)


@pytest.mark.parametrize("missing_chunks", ["error", "fill"])
def test_an_empty_shard_is_no_shard_of_zeros(tmp_path, voxels, mistake, missing_chunks):
    uri = tmp_path / "a.ome.zarr"
    write(uri, voxels, "zyx", version=3, shards=(4, 16, 16))
    write(uri / "labels/spots", voxels, "zyx", version=3, shards=(4, 16, 16))
    for folder in (uri, uri / "labels/spots"):
        volume = open_volume(str(folder), missing_chunks=missing_chunks)
        shard = folder / "s0/c/0/0/0"
        shard.write_bytes(b"")
        volume.read("c0", ((0, 5), (0, 20), (16, 30)))
        with mistake(str(shard), "empty", "copy the volume again", kind=DamagedFile):
            volume.read("c0", whole(volume))
    shard.unlink()  # of a label, where an absent one is a region without any
    assert not volume.read("c0", ((0, 4), (0, 16), (0, 16))).any()


@pytest.mark.parametrize(
    ("scale", "said"),
    [([5.0, -2.0, 2.0], "5, -2, 2"), ([float("nan"), 2.0, 2.0], "nan, 2, 2"), ([1.0, 5.0, 2.0, 2.0], "4 numbers")],
)
def test_a_scale_that_is_no_voxel_size_is_named_unless_another_is_stated(tmp_path, voxels, scale, said, mistake):
    uri = tmp_path / "a.ome.zarr"
    group = write(uri, voxels, "zyx")
    multiscales = group.attrs["multiscales"]
    multiscales[0]["datasets"][0]["coordinateTransformations"][0]["scale"] = scale
    group.attrs["multiscales"] = multiscales
    with mistake(str(uri), said, "`spacing`"):
        open_volume(str(uri))
    stated = open_volume(str(uri), spacing=(5, 2, 2)).spacing
    assert (stated.z, stated.y, stated.x) == (5, 2, 2)
