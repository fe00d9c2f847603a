"""TIFF files and folders of planes, written by tifffile, read back through Volume."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from metgan_dist.errors import DamagedFile
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.volume import Spacing, whole

REGION = ((1, 4), (3, 19), (7, 25))
CUT = tuple(slice(*r) for r in REGION)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw", "byteorder": ">", "rowsperstrip": 7},
        {"compression": "zstd", "tile": (16, 16)},
        {"metadata": None, "rowsperstrip": 1},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"photometric": "miniswhite"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_every_way_to_write_gives_the_same_voxels(tmp_path, voxels, how, dtype):
    array = (voxels % 255).astype(dtype)
    keywords = {key: value for key, value in how.items() if key not in ("bigtiff", "byteorder", "imagej")}
    opening = {key: value for key, value in how.items() if key in ("bigtiff", "byteorder", "imagej")}
    tifffile.imwrite(tmp_path / "v.tif", array, **opening, **({"photometric": "minisblack"} | keywords))
    volume = open_volume(str(tmp_path / "v.tif"))
    assert volume.shape == (5, 20, 30)
    assert volume.channels == ("c0",)
    read = volume.read("c0", REGION)
    assert read.dtype == volume.dtype
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array[CUT])


def test_bigtiff_is_really_big(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "v.btf", voxels, bigtiff=True)
    assert (tmp_path / "v.btf").read_bytes()[2] == 43
    np.testing.assert_array_equal(open_volume(str(tmp_path / "v.btf")).read("c0", REGION), voxels[CUT])


@pytest.mark.parametrize("axes", ["CZYX", "ZCYX", "TZCYX"])
def test_ome_tiff_channels_and_spacing(tmp_path, voxels, axes):
    both = np.stack([voxels, voxels + 5000])
    array = both.transpose(["CZYX".index(a) for a in axes if a != "T"]).reshape(
        [{"C": 2, "Z": 5, "Y": 20, "X": 30, "T": 1}[a] for a in axes]
    )
    metadata = {
        "axes": axes,
        "Channel": {"Name": ["auto", "signal"]},
        "PhysicalSizeZ": 5.0,
        "PhysicalSizeY": 2000.0,
        "PhysicalSizeX": 2.5,
        "PhysicalSizeYUnit": "nm",
    }
    tifffile.imwrite(tmp_path / "v.ome.tif", array, metadata=metadata, photometric="minisblack")
    volume = open_volume(str(tmp_path / "v.ome.tif"))
    assert volume.channels == ("auto", "signal")
    assert volume.shape == (5, 20, 30)
    assert volume.spacing == Spacing(5.0, 2.0, 2.5, "micrometer")
    np.testing.assert_array_equal(volume.read("signal", REGION), both[1][CUT])
    np.testing.assert_array_equal(volume.read("auto", whole(volume)), both[0])


def test_imagej_hyperstack_with_spacing(tmp_path, voxels):
    array = np.stack([voxels, voxels + 5000], axis=1)  # z, c, y, x
    tifffile.imwrite(
        tmp_path / "ij.tif",
        array,
        imagej=True,
        resolution=(1 / 0.5, 1 / 0.25),
        metadata={"axes": "ZCYX", "spacing": 3.0, "unit": "um"},
    )
    volume = open_volume(str(tmp_path / "ij.tif"), channels=["auto", "signal"])
    assert volume.spacing == Spacing(3.0, 0.25, 0.5, "micrometer")
    np.testing.assert_array_equal(volume.read("signal", REGION), array[CUT[0], 1, CUT[1], CUT[2]])


def test_axes_can_be_stated(tmp_path, voxels, mistake):
    array = np.stack([voxels, voxels + 5000])
    tifffile.imwrite(tmp_path / "v.tif", array, metadata=None, photometric="minisblack")
    tifffile.imwrite(tmp_path / "four.tif", array, photometric="minisblack")
    volume = open_volume(str(tmp_path / "four.tif"), axes="czyx", channels=["a", "b"])
    np.testing.assert_array_equal(volume.read("b", REGION), array[1][CUT])
    with mistake(str(tmp_path / "v.tif"), "axes 'czyx'"):
        open_volume(str(tmp_path / "v.tif"), axes="czyx")
    with mistake(str(tmp_path / "four.tif"), "2 channel(s)", "named"):
        open_volume(str(tmp_path / "four.tif"), axes="czyx", channels=["a"])


def test_planes_written_one_by_one_are_one_volume(tmp_path, voxels):
    with tifffile.TiffWriter(tmp_path / "v.tif") as writer:
        for plane in voxels:
            writer.write(plane, compression="zlib")
    volume = open_volume(str(tmp_path / "v.tif"))
    np.testing.assert_array_equal(volume.read("c0", whole(volume)), voxels)


def test_only_pages_of_the_region_are_read(tmp_path, voxels, monkeypatch):
    tall = np.tile(voxels, (20, 1, 1))
    tifffile.imwrite(tmp_path / "tall.tif", tall, compression="zlib", photometric="minisblack")
    volume = open_volume(str(tmp_path / "tall.tif"))
    read = 0
    original = tifffile.FileHandle.read

    def counting(self, *arguments, **keywords):
        nonlocal read
        data = original(self, *arguments, **keywords)
        read += len(data)
        return data

    monkeypatch.setattr(tifffile.FileHandle, "read", counting)
    np.testing.assert_array_equal(volume.read("c0", ((40, 43), (0, 20), (0, 30))), tall[40:43])
    size = (tmp_path / "tall.tif").stat().st_size
    assert 0 < read < size * 0.06  # 3 of 100 pages, and their headers


def test_empty_file_is_named(tmp_path, mistake):
    (tmp_path / "e.tif").touch()
    with mistake(str(tmp_path / "e.tif"), "the file is empty", kind=DamagedFile):
        open_volume(str(tmp_path / "e.tif"))
    (tmp_path / "t.tif").write_text("this is text")
    with mistake(str(tmp_path / "t.tif"), "no readable TIFF", kind=DamagedFile):
        open_volume(str(tmp_path / "t.tif"))


@pytest.mark.parametrize(
    "how",
    [{}, {"imagej": True}, {"ome": True}, {"compression": "zlib"}, {"metadata": None}, {"bigtiff": True}],
    ids=str,
)
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_truncated_file_never_passes_as_a_shorter_volume(tmp_path, how, kept, mistake):
    array = np.random.default_rng(0).integers(0, 60000, (8, 40, 50), dtype=np.uint16)
    path = tmp_path / "v.tif"
    with tifffile.TiffWriter(path, **{k: v for k, v in how.items() if k in ("imagej", "ome", "bigtiff")}) as writer:
        rest = {k: v for k, v in how.items() if k in ("compression", "metadata")}
        if "metadata" in rest or "compression" in rest:
            for plane in array:
                writer.write(plane, photometric="minisblack", contiguous=False, **rest)
        else:
            writer.write(array, photometric="minisblack")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with mistake(str(path), "copy", kind=DamagedFile):
        volume = open_volume(str(path))
        assert volume.shape[0] == 8
        volume.read("c0", whole(volume))


def test_damaged_strip_is_named_with_its_plane(tmp_path, voxels, mistake):
    tifffile.imwrite(tmp_path / "v.tif", voxels, compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "v.tif") as file:
        offset, count = file.pages[3].dataoffsets[0], file.pages[3].databytecounts[0]
    content = bytearray((tmp_path / "v.tif").read_bytes())
    content[offset : offset + count] = bytes(count)
    (tmp_path / "v.tif").write_bytes(content)
    volume = open_volume(str(tmp_path / "v.tif"))
    np.testing.assert_array_equal(volume.read("c0", ((0, 3), (0, 20), (0, 30))), voxels[:3])
    with mistake(str(tmp_path / "v.tif"), "plane 3", kind=DamagedFile):
        volume.read("c0", whole(volume))


def write_planes(folder, planes):
    folder.mkdir(parents=True)
    for number, plane in enumerate(planes):
        tifffile.imwrite(folder / f"plane_{number}.tif", plane, compression="zlib")


def test_planes_come_in_natural_order(tmp_path, voxels):
    planes = np.concatenate([voxels, voxels + 3000, voxels + 6000])  # 15: plane_10 sorts before plane_2 as text
    write_planes(tmp_path / "stack", planes)
    (tmp_path / "stack/._plane_3.tif").write_text("what macOS leaves behind")
    volume = open_volume(str(tmp_path / "stack"))
    assert volume.shape == (15, 20, 30)
    assert volume.names is None
    np.testing.assert_array_equal(volume.read("c0", ((2, 12), (3, 19), (7, 25))), planes[2:12, 3:19, 7:25])


def test_one_folder_per_channel(tmp_path, voxels, mistake):
    write_planes(tmp_path / "v/auto", voxels)
    write_planes(tmp_path / "v/signal", (voxels % 200).astype(np.uint8))
    folders = {"auto": str(tmp_path / "v/auto"), "glow": str(tmp_path / "v/signal")}
    for volume, name in ((open_volume(str(tmp_path / "v")), "signal"), (open_volume(folders), "glow")):
        assert volume.channels == ("auto", name)
        assert volume.dtype_of(name) == np.uint8
        np.testing.assert_array_equal(volume.read(name, REGION), voxels[CUT] % 200)
    (tmp_path / "v/signal/plane_4.tif").unlink()
    with mistake(str(tmp_path / "v/signal"), "4 planes", "has 5"):
        open_volume(str(tmp_path / "v"))


def test_only_planes_of_the_region_are_opened(tmp_path, voxels):
    write_planes(tmp_path / "v", voxels)
    for number in (1, 2, 4):
        (tmp_path / f"v/plane_{number}.tif").write_bytes(b"unreadable")
    volume = open_volume(str(tmp_path / "v"))
    np.testing.assert_array_equal(volume.read("c0", ((3, 4), (0, 20), (0, 30))), voxels[3:4])


def test_plane_of_another_size_or_type_is_named(tmp_path, voxels, mistake):
    write_planes(tmp_path / "v", voxels)
    tifffile.imwrite(tmp_path / "v/plane_3.tif", voxels[3, :, :29])
    volume = open_volume(str(tmp_path / "v"))
    np.testing.assert_array_equal(volume.read("c0", ((0, 3), (0, 20), (0, 30))), voxels[:3])
    with mistake(str(tmp_path / "v/plane_3.tif"), "20 x 29", "20 x 30"):
        volume.read("c0", whole(volume))
    tifffile.imwrite(tmp_path / "v/plane_3.tif", voxels[3].astype(np.float32))
    with mistake(str(tmp_path / "v/plane_3.tif"), "float32", "uint16"):
        volume.read("c0", whole(volume))
    tifffile.imwrite(tmp_path / "v/plane_3.tif", voxels[:2], photometric="minisblack")
    with mistake(str(tmp_path / "v/plane_3.tif"), "not one grey plane"):
        volume.read("c0", whole(volume))
    (tmp_path / "v/plane_3.tif").write_bytes(b"")
    with mistake(str(tmp_path / "v/plane_3.tif"), "the file is empty", kind=DamagedFile):
        volume.read("c0", whole(volume))


def test_colour_and_complex_are_refused(tmp_path, voxels, mistake):
    tifffile.imwrite(tmp_path / "c.tif", voxels.astype(np.complex64), photometric="minisblack")
    with mistake(str(tmp_path / "c.tif"), "complex64"):
        open_volume(str(tmp_path / "c.tif"))


def test_a_second_image_is_not_dropped(tmp_path, voxels, mistake):
    path = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(voxels, photometric="minisblack", metadata={"axes": "ZYX"})
        file.write(voxels[:2, :9, :9], photometric="minisblack", metadata={"axes": "ZYX"})
    with mistake(str(path), "2 images", "(5, 20, 30)", "(2, 9, 9)", "a file of its own"):
        open_volume(str(path))


def test_a_pyramid_and_a_thumbnail_are_no_second_image(tmp_path, voxels):
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(voxels, photometric="minisblack", metadata=None)
        file.write(voxels[0, ::2, ::2].copy(), subfiletype=1, photometric="minisblack", metadata=None)
    volume = open_volume(str(path))
    np.testing.assert_array_equal(volume.read("c0", whole(volume)), voxels)


@pytest.mark.parametrize("size", [-2.0, float("nan"), float("inf")])
def test_a_voxel_size_that_is_none_is_named_unless_another_is_stated(tmp_path, voxels, size, mistake):
    path = tmp_path / "v.ome.tif"
    metadata = {"axes": "ZYX", "PhysicalSizeX": 2.0, "PhysicalSizeY": size, "PhysicalSizeZ": 5.0}
    tifffile.imwrite(path, voxels, photometric="minisblack", metadata=metadata)
    with mistake(str(path), "voxel size", f"5, {size:g}, 2", "`spacing`"):
        open_volume(str(path))
    assert open_volume(str(path), spacing=(5, 2, 2)).spacing == Spacing(5, 2, 2, "micrometer")
