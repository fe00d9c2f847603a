"""Folders of pre-cut images, written by PIL and tifffile, read back through Volume."""

from __future__ import annotations

import gc

import numpy as np
import psutil
import pytest
import tifffile
from PIL import Image

from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.volumes.images import read_image
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.volume import whole

NAMES = ("tile_1", "tile_2", "tile_10")


def write(folder, stacks, suffix="png"):
    for channel, stack in stacks.items():
        (folder / channel).mkdir(parents=True)
        for name, image in zip(NAMES, stack, strict=False):
            if suffix == "png":
                Image.fromarray(image).save(folder / channel / f"{name}.png")
            else:
                tifffile.imwrite(folder / channel / f"{name}.tif", image)


@pytest.fixture
def folder(tmp_path, voxels):
    write(tmp_path / "set", {"anatomy": voxels[:3], "tumour": (voxels[:3] % 256).astype(np.uint8)})
    return tmp_path / "set"


def test_images_come_by_name_with_their_partners(folder, voxels):
    volume = open_volume(str(folder))
    assert volume.channels == ("anatomy", "tumour")
    assert volume.names == ("tile_1.png", "tile_2.png", "tile_10.png")
    assert volume.source_axes == "nyx"
    assert volume.shape == (3, 20, 30)
    assert volume.chunks == (1, 20, 30)
    assert (volume.dtype_of("anatomy"), volume.dtype_of("tumour")) == (np.uint16, np.uint8)
    np.testing.assert_array_equal(volume.read("anatomy", whole(volume)), voxels[:3])
    np.testing.assert_array_equal(volume.read("tumour", ((1, 3), (4, 9), (5, 7))), voxels[1:3, 4:9, 5:7] % 256)


def test_tiff_images_are_a_stack_unless_said_to_be_separate(tmp_path, voxels):
    write(tmp_path / "set", {"anatomy": voxels[:3], "tumour": voxels[1:4]}, "tif")
    assert open_volume(str(tmp_path / "set")).names is None
    volume = open_volume(str(tmp_path / "set"), axes="nyx")
    assert volume.names == ("tile_1.tif", "tile_2.tif", "tile_10.tif")
    np.testing.assert_array_equal(volume.read("tumour", whole(volume)), voxels[1:4])


def test_a_stack_leaves_no_file_open(tmp_path, voxels):
    write(tmp_path / "set", {"anatomy": voxels[:3], "tumour": voxels[1:4]}, "tif")
    gc.disable()  # what the collector would close is open too long in a stack of thousands
    try:
        volume = open_volume(str(tmp_path / "set"))
        volume.read("tumour", whole(volume))
        opened = [file.path for file in psutil.Process().open_files()]
    finally:
        gc.enable()
    assert not [path for path in opened if path.startswith(str(tmp_path))]


def test_table_follows_the_images(folder, tmp_path):
    (tmp_path / "t.csv").write_text(
        "patient,file,organ\np9,other.png,bone\n7,tile_10.png,lung\n8,tile_1.png,\n9,tile_2.png,liver\n"
    )
    table = open_volume(str(folder), table=str(tmp_path / "t.csv")).table
    assert table is not None
    assert list(table["organ"]) == ["", "liver", "lung"]
    assert list(table["patient"]) == ["8", "9", "7"]


def test_table_that_does_not_fit(folder, tmp_path, mistake):
    path = tmp_path / "t.csv"
    path.write_text("file,organ\ntile_1.png,lung\ntile_2.png,lung\n")
    with mistake(str(path), "tile_10.png"):
        open_volume(str(folder), table=str(path))
    path.write_text("image,organ\ntile_1.png,lung\n")
    with mistake(str(path), "no column 'file'", "image, organ"):
        open_volume(str(folder), table=str(path))
    every = "".join(f"{name}.png,7\n" for name in NAMES)
    for column in ("Patient", " patient", "subject"):
        path.write_text(f"file,{column}\n{every}")
        with mistake(str(path), f"column '{column}'", "file, organ, patient"):
            open_volume(str(folder), table=str(path))
    path.write_text(f"file,patient\n{every}tile_2.tif,8\n")
    with mistake(str(path), "rows 3 and 5", "'tile_2.tif'"):
        open_volume(str(folder), table=str(path))


@pytest.mark.parametrize("lacking", ["anatomy", "tumour"])
def test_image_without_partner_is_named(folder, mistake, lacking):
    (folder / lacking / "tile_2.png").unlink()
    with mistake(str(folder / lacking), "no partner for image 'tile_2'"):
        open_volume(str(folder))


def test_image_of_another_size_colour_or_none_is_named(folder, mistake):
    path = folder / "tumour/tile_2.png"
    volume = open_volume(str(folder))
    Image.fromarray(np.zeros((20, 31), np.uint8)).save(path)
    with mistake(str(path), "20 x 31", "20 x 30"):
        volume.read("tumour", whole(volume))
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path)
    with mistake(str(path), "colour"):
        volume.read("tumour", whole(volume))
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"text"):
        path.write_bytes(damaged)
        with mistake(str(path), "copy it again", kind=DamagedFile):
            volume.read("tumour", whole(volume))


def test_palette_and_black_and_white_images_are_class_numbers(tmp_path):
    classes = np.tile(np.arange(4, dtype=np.uint8), (20, 5))
    (tmp_path / "p").mkdir()
    image = Image.fromarray(classes)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    image.save(tmp_path / "p/a.png")
    (tmp_path / "b").mkdir()
    Image.fromarray(classes > 1).save(tmp_path / "b/a.png")
    palette, black = open_volume(str(tmp_path / "p")), open_volume(str(tmp_path / "b"))
    np.testing.assert_array_equal(palette.read("c0", whole(palette))[0], classes)
    np.testing.assert_array_equal(black.read("c0", whole(black))[0], (classes > 1).astype(np.uint8))
    assert black.dtype == np.uint8


def test_paths_that_are_no_volume(tmp_path, mistake, voxels):
    with mistake(str(tmp_path / "gone"), "not found"):
        open_volume(str(tmp_path / "gone"))
    with mistake(str(tmp_path / "gone"), "not found"):
        open_volume({"a": str(tmp_path / "gone")})
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object))
    (tmp_path / "o.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    for name in ("o.npy", "o.pkl"):
        with mistake(str(tmp_path / name), "not read"):
            open_volume(str(tmp_path / name))
    (tmp_path / "v.mha").touch()
    with mistake(str(tmp_path / "v.mha"), "not a format"):
        open_volume(str(tmp_path / "v.mha"))
    (tmp_path / "empty").mkdir()
    with mistake(str(tmp_path / "empty"), "no volume here", "dataset.yaml"):
        open_volume(str(tmp_path / "empty"))
    Image.fromarray(voxels[0]).save(tmp_path / "one.png")
    with mistake(str(tmp_path / "one.png"), "folder"):
        open_volume(str(tmp_path / "one.png"))


def test_a_png_that_is_cut_or_changed_anywhere_is_refused_or_read_as_it_was(tmp_path, voxels):
    path = tmp_path / "p.png"
    Image.fromarray(voxels[0]).save(path)
    content = path.read_bytes()
    changed = [content[:length] for length in range(len(content))]
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        changed.append(bytes(flipped))
    refused = 0
    for bytes_ in changed:
        path.write_bytes(bytes_)
        try:
            np.testing.assert_array_equal(read_image(str(path)), voxels[0])
        except UserError:
            refused += 1
    assert refused >= len(changed) - 4  # the checksum of the end itself is not compared


def test_a_png_without_its_last_bytes_is_named(folder, mistake):
    path = folder / "anatomy/tile_2.png"
    path.write_bytes(path.read_bytes()[:-1])
    volume = open_volume(str(folder))
    with mistake(str(path), "truncated", kind=DamagedFile):
        volume.read("anatomy", whole(volume))


def numbered(folder, names, planes):
    folder.mkdir(parents=True)
    for name, plane in zip(names, planes, strict=True):
        tifffile.imwrite(folder / f"{name}.tif", plane)
    return str(folder)


@pytest.mark.parametrize(("lacks", "other_lacks"), [(1, 3), (0, 4), (4, 0)])
def test_planes_of_which_each_channel_lacks_another_are_out_of_step(tmp_path, voxels, mistake, lacks, other_lacks):
    paths = {}
    for channel, lacking in (("auto", lacks), ("signal", other_lacks)):
        kept = [z for z in range(5) if z != lacking]
        paths[channel] = numbered(tmp_path / channel, [f"{channel}1_z{z:03}" for z in kept], voxels[kept])
    first = min(lacks, other_lacks)
    with mistake(paths["signal"], paths["auto"], "out of step", f"_z00{first}'", f"_z00{first + 1}'"):
        open_volume(paths)


@pytest.mark.parametrize(
    ("names", "others"),
    [
        (["c1_z1", "c1_z2", "c1_z10"], ["c2_01", "c2_02", "c2_10"]),
        (["z1_t17", "z2_t31", "z10_t40"], ["z1_t18", "z2_t33", "z10_t40"]),
        (["a", "b", "c"], ["a", "b", "c"]),
    ],
)
def test_planes_that_are_numbered_alike_are_partners(tmp_path, voxels, names, others):
    paths = {"a": numbered(tmp_path / "a", names, voxels[:3]), "b": numbered(tmp_path / "b", others, voxels[2:])}
    volume = open_volume(paths)
    np.testing.assert_array_equal(volume.read("b", whole(volume)), voxels[2:])


def test_a_palette_is_told_and_does_not_mix_with_grey(tmp_path, mistake):
    classes = np.tile(np.arange(4, dtype=np.uint8), (20, 5))
    (tmp_path / "p").mkdir()
    image = Image.fromarray(classes)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    image.save(tmp_path / "p/a.png")
    Image.fromarray(classes).save(tmp_path / "p/b.png")
    colours = np.zeros((3, 256), np.uint16)
    numbered(tmp_path / "grey", ["0"], [classes])
    tifffile.imwrite(tmp_path / "t.tif", classes, photometric="palette", colormap=colours)
    volume = open_volume(str(tmp_path / "p"))
    assert volume.palette_of("c0")
    assert open_volume(str(tmp_path / "t.tif")).palette_of("c0")
    joined = open_volume({"a": str(tmp_path / "t.tif"), "b": str(tmp_path / "grey")})
    assert [joined.palette_of(channel) for channel in ("a", "b")] == [True, False]
    with mistake(str(tmp_path / "p/b.png"), "grey values", "palette"):
        volume.read("c0", whole(volume))
