"""Folders of 2D files (TIFF, PNG), one folder per channel: the planes of a stack, or separate pre-cut images."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image
from tifffile import natural_sorted

from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.storage import Options, basename, entries, join, one_line, read_bytes
from metgan_dist.volumes.tiff import SUFFIXES as TIFF_SUFFIXES
from metgan_dist.volumes.tiff import TiffFile
from metgan_dist.volumes.volume import Region, Stated, Volume

if TYPE_CHECKING:
    from collections.abc import Mapping

SUFFIXES = (*TIFF_SUFFIXES, ".png")

# One grey channel, or the indices of a palette (how label images are often stored).
_GREY_MODES = {"1", "L", "P", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


_PNG_END = b"IEND\xaeB`\x82"


class ImageFolders(Volume):
    """Folders of 2D files of one size, in natural order of their names (2 before 10), presented as z.

    A *stack* (TIFF files, unless said otherwise) is a volume whose planes are files; its channels need equally many,
    numbered alike.
    *Separate images* (PNG files, or a `table` is given, or `axes` is "nyx") have nothing to do with their neighbours:
    the channels hold the same file names (the suffix may differ), `names` lists those of the first channel, and `table`
    is a DataFrame with the columns file, organ, patient, one row for each image in z order. `axes` "zyx" makes
    PNG files a stack.

    Opening lists the folders and looks at the first file only; each file is checked when it is read.
    Raises UserError for folders that do not fit each other, a file of another size or type, or in colour.
    """

    def __init__(
        self,
        uri: str,
        folders: Mapping[str, str],
        stated: Stated | None = None,
        *,
        table: str | None = None,
        options: Options | None = None,
    ) -> None:
        stated = stated or Stated()
        if stated.axes not in (None, "zyx", "nyx"):
            raise UserError(
                f"{uri}: axes '{stated.axes}': a folder of 2D files is zyx (a stack) or nyx (separate images)"
            )
        self.uri, self._options = uri, options
        self._folders = list(folders.values())
        self._files = [image_files(folder, options) for folder in self._folders]
        first = self._files[0][0]
        png = not first.lower().endswith(TIFF_SUFFIXES)
        separate = stated.axes == "nyx" or (stated.axes is None and (png or table is not None))
        self.source_axes = "nyx" if separate else "zyx"
        self.stems = [_stem(file) for file in self._files[0]]
        self._check_partners(separate)
        with _Plane(first, options) as plane:
            self.shape = (len(self._files[0]), *plane.shape)
            self.dtype = plane.dtype
            self.chunks = (1, *plane.chunks)
            self.spacing = stated.spacing_or(uri, plane.spacing)
        self._kinds = [_kind(files[0], options) for files in self._files]
        self.channels = stated.channels_or(uri, tuple(folders), len(self._files))
        if separate:
            self.names = tuple(basename(file) for file in self._files[0])
            self.table = None if table is None else _read_table(table, self.names, options)

    def _check_partners(self, separate: bool) -> None:
        """UserError unless every channel has a file for each of the first channel's, by name or by number."""
        folders = self._folders
        stems = [[_stem(file) for file in files] for files in self._files]
        for folder, own in zip(folders[1:], stems[1:], strict=True):
            if separate and own != stems[0]:
                name = natural_sorted(set(own) ^ set(stems[0]))
                lacks, has = (folder, folders[0]) if name and name[0] in stems[0] else (folders[0], folder)
                raise UserError(
                    f"{lacks}: no partner for image '{name[0] if name else own[0]}' of {has}; "
                    "every channel needs the same file names"
                )
            if len(own) != len(stems[0]):
                raise UserError(
                    f"{folder}: {len(own)} planes, but {folders[0]} has {len(stems[0])}; channels must agree"
                )
            check_in_step(folders[0], stems[0], folder, own)

    def dtype_of(self, channel: str) -> np.dtype:
        """The dtype of the channel's own first file; UserError for an unknown channel."""
        return self._kinds[self.channel_number(channel)][0]

    def palette_of(self, channel: str) -> bool:
        """Whether the channel's own first file holds numbers of colours; UserError for an unknown channel."""
        return self._kinds[self.channel_number(channel)][1]

    def uri_of(self, channel: str) -> str:
        """The channel's own folder; UserError for an unknown channel."""
        return self._folders[self.channel_number(channel)]

    def _read(self, channel: int, region: Region) -> np.ndarray:
        (z0, z1), y, x = region
        out = np.empty([b - a for a, b in region], dtype=self._kinds[channel][0])
        for position, file in enumerate(self._files[channel][z0:z1]):
            with _Plane(file, self._options) as plane:
                self._check_plane(file, plane, channel)
                out[position] = plane.read(y, x)
        return out

    def _check_plane(self, file: str, plane: _Plane, channel: int) -> None:
        dtype, palette = self._kinds[channel]
        if plane.shape != self.shape[1:]:
            raise UserError(
                f"{file}: {plane.shape[0]} x {plane.shape[1]} pixels (y, x), the others have {self.shape[1]} x "
                f"{self.shape[2]}; all planes must have one size"
            )
        if plane.dtype != dtype:
            raise UserError(f"{file}: {plane.dtype} pixels, the others have {dtype}; all planes must have one type")
        if plane.palette != palette:
            names = "numbers of colours (a palette)", "grey values"
            has, others = names if plane.palette else names[::-1]
            raise UserError(f"{file}: {has}, the others have {others}; save all in one way")


class _Plane:
    """One 2D file: shape (y, x), dtype, spacing, palette, pixels by region. A stack has thousands: each is closed."""

    def __init__(self, uri: str, options: Options | None) -> None:
        self._tiff: TiffFile | None = None
        if uri.lower().endswith(TIFF_SUFFIXES):
            self._tiff = TiffFile(uri, options=options)
            if self._tiff.shape[0] != 1 or len(self._tiff.channels) != 1:
                self._tiff.close()
                raise UserError(
                    f"{uri}: not one grey plane but {self._tiff.shape} voxels (z, y, x) in {len(self._tiff.channels)} "
                    "channel(s); a folder holds 2D files, a file of many pages is a volume of its own"
                )
            self.shape: tuple[int, int] = self._tiff.shape[1:]
            self.dtype, self.spacing, self.chunks = self._tiff.dtype, self._tiff.spacing, self._tiff.chunks[1:]
            self.palette = self._tiff.palette
            return
        self._pixels, self.palette = _read_grey(uri, options)
        self.shape = (self._pixels.shape[0], self._pixels.shape[1])
        self.dtype, self.spacing, self.chunks = self._pixels.dtype, None, self.shape

    def read(self, y: tuple[int, int], x: tuple[int, int]) -> np.ndarray:
        """Pixels (rows, columns) of the region `y`, `x`, each first and past the last."""
        if self._tiff is not None:
            return self._tiff.read(self._tiff.channels[0], ((0, 1), y, x))[0]
        return self._pixels[slice(*y), slice(*x)]

    def __enter__(self) -> _Plane:
        return self

    def __exit__(self, *error: object) -> None:
        if self._tiff is not None:
            self._tiff.close()


def _kind(uri: str, options: Options | None) -> tuple[np.dtype, bool]:
    with _Plane(uri, options) as plane:
        return plane.dtype, plane.palette


def read_image(uri: str, options: Options | None = None) -> np.ndarray:
    """A grey or palette image (y, x) as it is stored; black-and-white becomes uint8 0 and 1."""
    return _read_grey(uri, options)[0]


def _read_grey(uri: str, options: Options | None) -> tuple[np.ndarray, bool]:
    """As `read_image`, and whether the pixels are numbers of a palette's colours."""
    content = read_bytes(uri, options)
    if not content:
        raise DamagedFile(f"{uri}: the file is empty; copy it again or remove it from the data set")
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.verify()  # the checksums of its parts, which decoding does not look at
            if image.format == "PNG" and _PNG_END not in content:
                raise DamagedFile(f"{uri}: truncated, its end is missing; copy it again")
        with Image.open(io.BytesIO(content)) as image:
            if image.mode not in _GREY_MODES:
                raise UserError(f"{uri}: a colour image ({image.mode}); one grey channel is needed, save it as grey")
            pixels, palette = np.asarray(image), image.mode == "P"
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DamagedFile(f"{uri}: no readable image: {one_line(error)}; copy it again") from error
    dtype = np.dtype(np.uint8) if pixels.dtype == bool else pixels.dtype.newbyteorder("=")
    return pixels.astype(dtype, copy=False), palette


def image_files(folder: str, options: Options | None = None) -> list[str]:
    """URIs of the 2D files of a folder in natural order; UserError where there is none."""
    inside, folders = entries(folder, options)
    files = [name for name in inside if name.lower().endswith(SUFFIXES)]
    if strange := next((name for name in folders if name.lower().endswith(SUFFIXES)), None):
        raise UserError(f"{join(folder, strange)}: a folder, called like an image; rename or remove it")
    if not files:
        raise UserError(f"{folder}: no TIFF or PNG files in this folder")
    return [join(folder, name) for name in natural_sorted(files)]


def check_in_step(one: str, stems: list[str], other: str, others: list[str]) -> None:
    """UserError unless the planes of two folders, equally many, are numbered alike: each may lack another one.

    `stems` and `others` are the files' names without suffix, in order. Where names have several numbers that differ
    from plane to plane, as a time beside the plane, one of them must run alike.
    """
    ours, theirs = _numberings(stems), _numberings(others)
    if len(stems) < 2 or stems == others or any(numbers in theirs for numbers in ours):
        return
    pairs = zip(ours[0], theirs[0], strict=True) if ours and theirs else ()
    at = next((place for place, (mine, yours) in enumerate(pairs) if mine != yours), 0)
    raise UserError(
        f"{other}: its planes are out of step with those of {one}: '{others[at]}' would lie on '{stems[at]}'; complete "
        "both folders, or number their files alike"
    )


def _numberings(stems: list[str]) -> list[list[int]]:
    """The numbers in the names that tell planes apart, one list each, in the order of the planes."""
    found = [_numbers(stem) for stem in stems]
    if len({len(numbers) for numbers in found}) > 1:
        return []
    return [list(column) for column in zip(*found, strict=True) if len(set(column)) == len(stems)]


def _numbers(stem: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", stem)]


def _read_table(uri: str, names: tuple[str, ...], options: Options | None) -> pd.DataFrame:
    """Organ and patient of each image, in the order of `names`; rows of other files are left out."""
    try:
        table = pd.read_csv(io.BytesIO(read_bytes(uri, options)), dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise UserError(
            f"{uri}: no readable table: {one_line(error)}; a CSV with file, organ, patient is needed"
        ) from error
    columns = ["file", "organ", "patient"]
    if "file" not in table.columns:
        raise UserError(f"{uri}: no column 'file'; its columns: {', '.join(table.columns)}")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too much for names of the rows
        raise UserError(f"{uri}: rows have more cells than the header; give each column a name")
    # `Patient` or `subject` left unread would let one patient's images lie on both sides of a split.
    unread = [name for name in table.columns if name not in columns]
    if unread:
        raise UserError(f"{uri}: column '{unread[0]}' is none of file, organ, patient; rename or remove it")
    table = table.reindex(columns=columns, fill_value="").apply(lambda column: column.str.strip())
    table = table.assign(stem=table["file"].map(_stem))
    twice = table[table["stem"].duplicated()]
    if len(twice):
        # Numbered as an editor shows them, the header being row 1.
        numbers = " and ".join(str(row + 2) for row in table.index[table["stem"] == twice["stem"].iloc[0]])
        raise UserError(f"{uri}: rows {numbers} are of one image '{twice['file'].iloc[0]}'; keep one")
    rows = table.set_index("stem")
    missing = [name for name in names if _stem(name) not in rows.index]
    if missing:
        raise UserError(f"{uri}: no row for image '{missing[0]}' ({len(missing)} without one); add it to the table")
    return rows.loc[[_stem(name) for name in names]].reset_index(drop=True)


def _stem(file: str) -> str:
    return basename(file).rpartition(".")[0]
