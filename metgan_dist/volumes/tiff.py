"""One TIFF file with many pages: classic, BigTIFF, OME-TIFF, ImageJ; compressed or not; read page by page."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import tifffile
import zarr

from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.storage import Options, absolute, filesystem, is_local, one_line, storage_errors
from metgan_dist.volumes.axes import canonical_axes
from metgan_dist.volumes.volume import Region, Spacing, Stated, Volume, spacing_of

SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".ome.tf2")

# Remote files are read through a small read-ahead: the chain of page headers is scattered among the pixels, and large
# blocks would fetch the whole file to follow it.
_BLOCK = 2**17
# Files with very many thin strips are read a page at a time, which costs less than handling each strip.
_MANY_STRIPS = 64
# What tifffile makes of tags that are none, while it opens a file and follows its pages.
_STRANGE = (
    *(tifffile.TiffFileError, struct.error, LookupError, ArithmeticError, ValueError, TypeError, AttributeError),
    *(EOFError, RuntimeError, AssertionError),
)
_DESCRIPTION = 270  # the tag that holds OME-XML and ImageJ's header


class TiffFile(Volume):
    """The one image series of a TIFF file; smaller copies of it (a pyramid, a thumbnail) are left alone.

    Only pages (strips or tiles, where large) inside a region are read, one plane after the other.
    Raises DamagedFile for an empty or truncated file, UserError for axes that are no volume and for several series.
    """

    def __init__(self, uri: str, stated: Stated | None = None, *, options: Options | None = None) -> None:
        stated = stated or Stated()
        self.uri = uri
        self._file = open_tiff(uri, options)
        with storage_errors(uri):
            if _one_series_a_plane(self._file):
                self._file.close()
                # Without tifffile's own description the pages of one shape count as one series again.
                self._file = open_tiff(uri, options, is_shaped=False)
            series = _series(uri, self._file)
        self._axes = canonical_axes(uri, stated.axes or series.axes, series.shape)
        self.source_axes, self.shape = self._axes.source, self._axes.shape
        names, spacing = _metadata(self._file)
        self.channels = stated.channels_or(uri, names, self._axes.channels)
        self.spacing = stated.spacing_or(uri, spacing)
        self.dtype = np.dtype(series.dtype).newbyteorder("=")
        page = series.keyframe
        self.palette = page.photometric == tifffile.PHOTOMETRIC.PALETTE
        thin = not page.is_tiled and math.prod(page.chunked) > _MANY_STRIPS
        self._array: zarr.Array = zarr.open_array(series.aszarr(level=0, chunkmode=2 if thin else 0), mode="r")
        self.chunks = self._axes.along(self._array.chunks, 1)

    def _read(self, channel: int, region: Region) -> np.ndarray:
        z, y, x = region
        out = np.empty([b - a for a, b in region], dtype=self.dtype)
        # A plane at a time, so that a damaged one can be named.
        for plane in range(*z):
            index = self._axes.index(channel, ((plane, plane + 1), y, x))
            try:
                with storage_errors(self.uri):
                    out[plane - z[0]] = self._axes.canonical(np.asarray(self._array[index]))[0]
            except UserError:
                raise
            except Exception as error:  # decoders raise what they like
                raise DamagedFile(
                    f"{self.uri}: plane {plane} cannot be read: {one_line(error)}; copy the file again"
                ) from error
        return out

    def close(self) -> None:
        """Give the file back; nothing can be read afterwards. Without it that happens when the object is collected."""
        self._file.close()


def open_tiff(uri: str, options: Options | None = None, **flags: bool) -> tifffile.TiffFile:
    """A TIFF file opened on disk or in object storage; DamagedFile when it is empty or no TIFF. `flags`: tifffile's."""
    try:
        if is_local(uri):
            with storage_errors(uri):
                return tifffile.TiffFile(absolute(uri), **flags)
        fs, path = filesystem(uri, options)
        with storage_errors(uri):
            handle = fs.open(path, "rb", block_size=_BLOCK, cache_type="readahead")
        return tifffile.TiffFile(handle, name=path, **flags)
    except _STRANGE as error:
        size = "the file is empty" if _is_empty(uri, options) else f"no readable TIFF: {one_line(error)}"
        raise DamagedFile(f"{uri}: {size}; copy it again or remove it from the data set") from error
    except OSError as error:  # listed, but a link that leads nowhere, or a disk that does not give it
        raise DamagedFile(
            f"{uri}: cannot be opened ({one_line(error)}); copy it again or remove it from the data set"
        ) from error


def _is_empty(uri: str, options: Options | None) -> bool:
    fs, path = filesystem(uri, options)
    return fs.size(path) == 0


def _one_series_a_plane(file: tifffile.TiffFile) -> bool:
    """Whether tifffile wrote the planes one by one, each described as an image of its own: still one volume."""
    try:
        series = file.series if file.is_shaped else []
        return len(series) > 1 and all(s.ndim == 2 and s.shape == series[0].shape for s in series)
    except _STRANGE:
        return False  # damaged: `_series` meets the same error and reports it


def _series(uri: str, file: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """The only series of a file, after checks that no page of it is lost. tifffile itself only logs such losses."""
    try:
        if len(file.pages) == 0 or not file.series:
            raise DamagedFile(f"{uri}: holds no image; copy it again or remove it from the data set")
        series = file.series[0]
        complete = _chain_ends(file) and _has_description(file) and _fits(file, series)
    except (*_STRANGE, OSError) as error:
        raise DamagedFile(f"{uri}: no readable TIFF: {one_line(error)}; copy it again") from error
    if not complete:
        raise DamagedFile(
            f"{uri}: truncated, pages are missing at its end; copy it again or remove it from the data set"
        )
    if series.dtype is None or series.dtype.kind not in "biuf":
        raise UserError(f"{uri}: voxels of type {series.dtype}; integers or floats are needed")
    others = [other for other in file.series[1:] if not other.keyframe.is_reduced]
    if others:
        raise UserError(
            f"{uri}: holds {len(others) + 1} images, {series.shape} and {others[0].shape} ({series.axes}, "
            f"{others[0].axes}); a volume is one, save each as a file of its own"
        )
    return series


def _chain_ends(file: tifffile.TiffFile) -> bool:
    """Whether the chain of pages ends with the zero that ends it, and not at the end of a shortened file."""
    position = file.pages.next_page_offset
    if position is None:
        return False
    file.filehandle.seek(position)
    stored = file.filehandle.read(file.tiff.offsetsize)
    return len(stored) == file.tiff.offsetsize and struct.unpack(file.tiff.offsetformat, stored)[0] == 0


def _has_description(file: tifffile.TiffFile) -> bool:
    """Whether the description that the first page points to is in the file: OME-XML may stand at the very end."""
    page, tiff = file.pages.first, file.tiff
    file.filehandle.seek(page.offset)
    count = struct.unpack(tiff.tagnoformat, file.filehandle.read(tiff.tagnosize))[0]
    table = file.filehandle.read(count * tiff.tagsize)
    codes = {struct.unpack_from(tiff.byteorder + "H", table, at)[0] for at in range(0, len(table), tiff.tagsize)}
    return _DESCRIPTION not in codes or _DESCRIPTION in page.tags


def _fits(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> bool:
    """Whether every page is there, ImageJ's count of them too, and the last voxels lie inside the file."""
    if any(page is None for page in series.pages):
        return False
    planes = math.prod(series.shape) // math.prod(series.keyframe.shape)
    if planes < int((file.imagej_metadata or {}).get("images", 1)):
        return False
    # Contiguous pixels have one offset; else the last page's strips or tiles tell where the file must reach.
    if series.dataoffset is not None:
        return bool(series.dataoffset + series.nbytes <= file.filehandle.size)
    last = series.pages[-1]
    ends = [offset + count for offset, count in zip(last.dataoffsets, last.databytecounts, strict=False)]
    return max(ends, default=0) <= last.parent.filehandle.size


def _metadata(file: tifffile.TiffFile) -> tuple[list[str] | None, Spacing | None]:
    """Channel names and voxel size from OME-XML or ImageJ's header; a bare resolution tag is print density, no size."""
    if file.is_ome and file.ome_metadata:
        return _ome(tifffile.xml2dict(file.ome_metadata))
    if file.is_imagej and file.imagej_metadata:
        return None, _imagej(file.imagej_metadata, file.pages.first)
    return None, None


def _ome(tree: dict[str, Any]) -> tuple[list[str] | None, Spacing | None]:
    images = tree.get("OME", {}).get("Image", {})
    pixels = (images[0] if isinstance(images, list) else images).get("Pixels", {})
    channels = pixels.get("Channel", [])
    channels = channels if isinstance(channels, list) else [channels]
    names = [str(channel.get("Name", "")) for channel in channels]
    if "PhysicalSizeX" not in pixels or "PhysicalSizeY" not in pixels:
        return names, None
    # The OME schema's default unit is the micrometre; a 2D image has no size along z.
    sizes = [float(pixels.get(f"PhysicalSize{axis}", 1.0)) for axis in "ZYX"]
    in_plane = pixels.get("PhysicalSizeXUnit", "µm")
    units = [str(pixels.get(f"PhysicalSize{axis}Unit", in_plane)) for axis in "ZYX"]
    return names, spacing_of(sizes, units)


def _imagej(header: dict[str, Any], page: tifffile.TiffPage) -> Spacing | None:
    """ImageJ keeps x and y as pixels per unit in the resolution tags, z as `spacing` in the same unit."""
    unit = header.get("unit")
    resolution = [page.tags.valueof(name) for name in ("YResolution", "XResolution")]
    if not unit or any(not value or not value[0] or not value[1] for value in resolution):
        return None
    # Pixels per unit, as a fraction: its inverse is the voxel size.
    y, x = (denominator / numerator for numerator, denominator in resolution)
    return spacing_of([float(header.get("spacing", 1.0)), y, x], [str(unit)] * 3)
