"""TIFF files and folders of images that are damaged or do not fit each other: each is refused in one line."""

import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
import tifffile
from damages import read_all, refused
from PIL import Image

from metgan_dist.errors import UserError

VOXELS = np.arange(3 * 8 * 9, dtype="uint16").reshape(3, 8, 9)


@pytest.fixture
def stack(tmp_path):
    """A TIFF file of three pages of 8 x 9 pixels."""
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, VOXELS, photometric="minisblack", metadata={"axes": "ZYX"})
    assert (read_all(path)["c0"] == VOXELS).all()
    return path


@pytest.fixture
def planes(tmp_path):
    """A folder of three planes."""
    return folder_of(tmp_path / "planes", "z{}.tif", tifffile.imwrite)


@pytest.fixture
def pictures(tmp_path):
    """A folder of three PNG files."""
    return folder_of(tmp_path / "pictures", "{}.png", lambda path, plane: Image.fromarray(plane).save(path))


def folder_of(folder, name, write):
    """A folder of the planes, each a file, which is read as they are."""
    folder.mkdir()
    for number, plane in enumerate(VOXELS):
        write(folder / name.format(number), plane)
    assert (read_all(folder)["c0"] == VOXELS).all()
    return folder


def tag_of(content, code):
    """Where the value of a tag of the first page stands in a little-endian classic TIFF."""
    at = struct.unpack_from("<I", content, 4)[0]
    for number in range(struct.unpack_from("<H", content, at)[0]):
        entry = at + 2 + 12 * number
        if struct.unpack_from("<H", content, entry)[0] == code:
            return entry + 8
    raise AssertionError(code)


TAGS = {
    "no width": (256, 0, "width|no voxels|TIFF"),
    "more columns than any memory has": (256, 2**31 - 1, "TIFF|bytes|cannot be read|truncated|series|size"),
    "more rows than any memory has": (257, 2**31 - 1, "TIFF|bytes|cannot be read|truncated|series|size"),
    "a compression that nobody has": (259, 60000, "cannot be read|compress"),
    "strips beyond the end": (273, 2**30, "cannot be read|truncated|TIFF|end"),
}


@pytest.mark.parametrize("case", TAGS)
def test_a_tag_that_cannot_be_is_a_line(stack, case):
    code, value, said = TAGS[case]
    content = bytearray(stack.read_bytes())
    at = tag_of(content, code)
    kind = struct.unpack_from("<H", content, at - 6)[0]
    struct.pack_into({3: "<H", 4: "<I"}[kind], content, at, min(value, 65535) if kind == 3 else value)
    stack.write_bytes(bytes(content))
    refused(stack, said)


@pytest.mark.parametrize("change", [1, 4, 255])
def test_whatever_byte_of_the_tags_is_changed_a_line_is_all_that_can_be_raised(stack, change):
    whole = stack.read_bytes()
    first = struct.unpack_from("<I", whole, 4)[0]
    for at in range(first, len(whole)):
        stack.write_bytes(whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])
        with suppress(UserError):
            read_all(stack)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"no image at all\n" * 20, "TIFF"),
        (b"II*\0" + struct.pack("<I", 2**31), "holds no image"),
        (b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0), "truncated"),
        (b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**60), "holds no image"),
        ("loop", "TIFF|truncated|pages|read"),
    ],
    ids=["empty", "text", "pages beyond the end", "a page without tags", "far beyond the end", "a chain in a circle"],
)
def test_what_is_no_tiff_is_a_line(stack, content, said):
    if content == "loop":  # the second page's successor is the second page
        whole = bytearray(stack.read_bytes())
        first = struct.unpack_from("<I", whole, 4)[0]
        count = struct.unpack_from("<H", whole, first)[0]
        second = struct.unpack_from("<I", whole, first + 2 + 12 * count)[0]
        after = second + 2 + 12 * struct.unpack_from("<H", whole, second)[0]
        struct.pack_into("<I", whole, after, second)
        content = bytes(whole)
    stack.write_bytes(content)
    refused(stack, said)


def test_a_stack_that_is_cut_anywhere_is_a_line_or_whole(stack):
    whole = stack.read_bytes()
    for kept in range(1, len(whole), 37):
        stack.write_bytes(whole[:kept])
        refused(stack, ".")


def dangling(folder):
    (folder / "z1.tif").unlink()
    (folder / "z1.tif").symlink_to(folder / "gone.tif")


def looping(folder):
    (folder / "z1.tif").unlink()
    (folder / "z1.tif").symlink_to(folder / "z1.tif")


PLANES = {
    "a plane of text": (lambda folder: (folder / "z1.tif").write_text("no image"), "z1.tif"),
    "an empty plane": (lambda folder: (folder / "z1.tif").write_bytes(b""), "z1.tif.*empty"),
    "a plane of another size": (lambda folder: tifffile.imwrite(folder / "z1.tif", VOXELS[0, :4]), "one size"),
    "a plane of another type": (lambda folder: tifffile.imwrite(folder / "z1.tif", np.ones((8, 9), "u1")), "one type"),
    "a plane in colour": (
        lambda folder: tifffile.imwrite(folder / "z1.tif", np.zeros((8, 9, 3), "uint8"), photometric="rgb"),
        "z1.tif.*grey",
    ),
    "a plane that is a stack": (lambda folder: tifffile.imwrite(folder / "z1.tif", VOXELS), "z1.tif.*one grey plane"),
    "a link to nothing": (dangling, "z1.tif"),
    "a link in a circle": (looping, "z1.tif"),
    "a plane that is a folder": (lambda folder: ((folder / "z1.tif").unlink(), (folder / "z1.tif").mkdir()), "z1"),
    "no planes": (lambda folder: [path.unlink() for path in folder.iterdir()], "no volume"),
}


@pytest.mark.parametrize("case", PLANES)
def test_planes_that_do_not_make_a_volume_are_a_line(planes, case):
    damage, said = PLANES[case]
    damage(planes)
    refused(planes, said)


PICTURES = {
    "a text": (lambda path: path.write_text("no image"), "no readable image"),
    "nothing": (lambda path: path.write_bytes(b""), "empty"),
    "half of it": (lambda path: path.write_bytes(path.read_bytes()[:40]), "no readable image|truncated"),
    "colour": (lambda path: Image.new("RGB", (9, 8)).save(path), "colour"),
    "transparency": (lambda path: Image.new("LA", (9, 8)).save(path), "colour"),
    "another size": (lambda path: Image.new("I;16", (9, 7)).save(path), "one size"),
    "eight bits": (lambda path: Image.new("L", (9, 8)).save(path), "one type"),
    "a palette": (lambda path: Image.new("P", (9, 8)).save(path), "one type|one way"),
    "a JPEG": (lambda path: Image.new("RGB", (9, 8)).save(path, format="JPEG"), "colour|no readable image"),
    "a picture of 10^10 pixels": (lambda path: path.write_bytes(huge_png()), "no readable image"),
}


def huge_png():
    """A PNG whose header says 100,000 x 100,000 pixels, with a sound checksum."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 16, 0, 0, 0, 0)
    part = b"IDAT" + zlib.compress(b"\0" * 100)
    parts = (header, part, b"IEND")
    whole = [struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


@pytest.mark.parametrize("which", ["0.png", "1.png"])
@pytest.mark.parametrize("case", PICTURES)
def test_a_picture_that_does_not_fit_is_a_line(pictures, case, which):
    damage, said = PICTURES[case]
    damage(pictures / which)
    refused(pictures, said)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "table"),
        ("file,patient\n", "no row"),
        ("name,patient\n0.png,a\n", "no column 'file'"),
        ("file,subject\n0.png,a\n1.png,a\n2.png,b\n", "column 'subject'"),
        ("file,patient\n0.png,a\n0.png,b\n1.png,a\n2.png,b\n", "rows 2 and 3"),
        ("file,patient\n0.png,a,b,c\n1.png\n", "more cells"),
        (b"file,patient\n0.png,\xff\xfe\n", "table"),
        ("folder", "a folder, where a file is needed"),
    ],
)
def test_a_table_that_does_not_fit_is_a_line(pictures, tmp_path, table, said):
    place = tmp_path / "table.csv"
    if table == "folder":
        place.mkdir()
    else:
        place.write_bytes(table if isinstance(table, bytes) else table.encode())
    refused(place, said, work=lambda path: read_all(pictures, table=str(path)))
