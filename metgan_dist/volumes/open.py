"""Open a volume by what its path is."""

from __future__ import annotations

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.storage import Options, absolute, basename, entries, exists, is_folder, join
from metgan_dist.volumes import images, nifti, tiff
from metgan_dist.volumes.images import ImageFolders
from metgan_dist.volumes.nifti import Nifti
from metgan_dist.volumes.ome_zarr import METADATA_FILES, OmeZarr
from metgan_dist.volumes.orientation import oriented, sides
from metgan_dist.volumes.tiff import TiffFile
from metgan_dist.volumes.volume import Region, Stated, Volume

_FORMATS = "OME-Zarr, TIFF, NIfTI or a folder of TIFF or PNG images"
# Reading these would run whatever code is stored in them, or needs a type that no volume has.
_REFUSED = (".npy", ".npz", ".pkl", ".pickle", ".joblib", ".pt", ".pth")


def open_volume(
    path: str | dict[str, str],
    *,
    level: str | None = None,
    axes: str | None = None,
    channels: list[str] | tuple[str, ...] | None = None,
    spacing: tuple[float, float, float] | None = None,
    unit: str | None = None,
    options: Options | None = None,
    missing_chunks: str = "error",
    table: str | None = None,
    orientation: str | None = None,
) -> Volume:
    """Open a volume: reads metadata only.

    path: a file or folder (a path or any fsspec URI), or one for each channel name; level: pyramid level of an
    OME-Zarr, by its path; axes, channels, spacing (z, y, x), unit: what the file does not say (they win over what it
    says); options: fsspec options of remote storage; missing_chunks: "error" or "fill" for absent chunks of an OME-Zarr
    image; table: CSV with file, organ, patient for a folder of separate images; orientation: sides towards which x, y,
    z shall run, e.g. RAS, `stored` or None as the file has them (a stated spacing is of the axes as the file has them).

    Raises UserError for a path that does not exist, is no known format or holds no volume, or does not say how it lies
    where an orientation is asked for, DamagedFile for one that cannot be read.
    """
    stated = Stated(axes and axes.lower(), tuple(channels) if channels else None, spacing, unit)

    def open_one(uri: str) -> Volume:
        return oriented(_open_one(uri, stated, level, options, missing_chunks, table), orientation, axes=axes)

    if isinstance(path, str):
        return open_one(absolute(path))
    folders = {name: absolute(part) for name, part in path.items()}
    if not folders:
        raise UserError("data.volumes: an entry has no path; give a path, or one for each channel name")
    if channels:
        raise UserError(f"{next(iter(folders.values()))}: `channels` and a path per channel name: give one of the two")
    if all(_is_image_folder(folder, options) for folder in folders.values()):
        planes = ImageFolders(next(iter(folders.values())), folders, stated, table=table, options=options)
        return oriented(planes, orientation, axes=axes)
    return JoinedChannels({name: open_one(part) for name, part in folders.items()})


class JoinedChannels(Volume):
    """One channel from each of several volumes of one shape.

    From a file with several channels the one of the same name is taken. Raises UserError that names both shapes, or
    both files when their affines place the voxels more than half a voxel apart.
    """

    def __init__(self, parts: dict[str, Volume]) -> None:
        self._parts = list(parts.values())
        self._sources = [_only_channel(name, part) for name, part in parts.items()]
        first = self._parts[0]
        for part in self._parts[1:]:
            same_grid(first, part)
        self.uri, self.source_axes = first.uri, first.source_axes
        self.shape, self.chunks = first.shape, first.chunks
        self.channels = tuple(parts)
        self._dtypes = [part.dtype_of(channel) for part, channel in zip(self._parts, self._sources, strict=True)]
        self.dtype = np.result_type(*self._dtypes)
        self.spacing = next((part.spacing for part in self._parts if part.spacing), None)
        self.affine = first.affine
        self.lies = first.lies

    def dtype_of(self, channel: str) -> np.dtype:
        """The dtype in the file that the channel comes from; UserError for an unknown channel."""
        return self._dtypes[self.channel_number(channel)]

    def palette_of(self, channel: str) -> bool:
        """Whether the channel's own file holds numbers of colours; UserError for an unknown channel."""
        return self._parts[self.channel_number(channel)].palette_of(self._sources[self.channel_number(channel)])

    def uri_of(self, channel: str) -> str:
        """The file that the channel comes from; UserError for an unknown channel."""
        return self._parts[self.channel_number(channel)].uri_of(self._sources[self.channel_number(channel)])

    def _read(self, channel: int, region: Region) -> np.ndarray:
        return self._parts[channel].read(self._sources[channel], region)


def same_grid(one: Volume, other: Volume) -> None:
    """UserError unless two volumes have one shape and, where both have affines, lie within half a voxel."""
    if one.shape != other.shape:
        raise UserError(f"{other.uri}: {other.shape} voxels (z, y, x), but {one.uri} has {one.shape}; they must agree")
    if one.affine is None or other.affine is None:
        return
    z, y, x = one.shape
    corners = np.array([(i, j, k, 1) for i in (0, x - 1) for j in (0, y - 1) for k in (0, z - 1)]).T
    apart = np.abs(np.linalg.solve(one.affine, other.affine @ corners) - corners).max()
    if not apart <= 0.5:  # NaN is no agreement
        own, others = sides(one.affine), sides(other.affine)
        turn = f", or set `orientation` in the data set: they lie as {own} and {others}" if own != others else ""
        raise UserError(
            f"{other.uri}: its affine places voxels up to {apart:.1f} voxels away from those of {one.uri}; "
            f"resample one{turn}"
        )


def is_zarr(uri: str, options: Options | None = None) -> bool:
    """Whether a folder looks like a Zarr hierarchy: its name ends with .zarr, or it holds Zarr metadata."""
    return uri.rstrip("/").endswith(".zarr") or any(exists(join(uri, name), options) for name in METADATA_FILES)


def _open_one(
    uri: str, stated: Stated, level: str | None, options: Options | None, missing_chunks: str, table: str | None
) -> Volume:
    name = basename(uri).lower()
    if name.endswith(_REFUSED):
        raise UserError(f"{uri}: NumPy and pickle files are not read; save the volume as {_FORMATS}")
    if not exists(uri, options):
        raise UserError(f"{uri}: not found; check the path")
    named_zarr = name.endswith(".zarr")  # which need not be looked at: storage is asked once less
    folder = not named_zarr and is_folder(uri, options)
    if named_zarr or (folder and is_zarr(uri, options)):
        _check_means_nothing(uri, table=table)
        return OmeZarr(uri, stated, level=level, options=options, missing_chunks=missing_chunks)
    _check_means_nothing(uri, level=level)
    if folder:
        return ImageFolders(uri, _channel_folders(uri, options), stated, table=table, options=options)
    _check_means_nothing(uri, table=table)
    if name.endswith(tiff.SUFFIXES):
        return TiffFile(uri, stated, options=options)
    if name.endswith(nifti.SUFFIXES):
        return Nifti(uri, stated, options=options)
    if name.endswith(images.SUFFIXES):
        raise UserError(f"{uri}: a single image; give the folder that holds the images")
    raise UserError(f"{uri}: not a format that is read; give {_FORMATS}")


def _check_means_nothing(uri: str, *, level: str | None = None, table: str | None = None) -> None:
    """UserError for a setting that is given, and is of other formats."""
    if level is not None:
        raise UserError(f"{uri}: `level` {level} is for OME-Zarr images, which have several; leave it out")
    if table is not None:
        raise UserError(f"{uri}: `table` is for folders of separate images, which it names; leave it out")


def _is_image_folder(uri: str, options: Options | None) -> bool:
    return is_folder(uri, options) and not is_zarr(uri, options)


def _channel_folders(uri: str, options: Options | None) -> dict[str, str]:
    """Channel names and folders of a folder of images: itself as c0, or its sub-folders that hold images."""
    files, folders = entries(uri, options)
    if any(file.lower().endswith(images.SUFFIXES) for file in files):
        return {"c0": uri}
    found = {}
    for folder in folders:
        inside = entries(join(uri, folder), options)[0]
        if any(file.lower().endswith(images.SUFFIXES) for file in inside):
            found[folder] = join(uri, folder)
    if not found:
        raise UserError(f"{uri}: no volume here; give {_FORMATS}, or describe several volumes in a dataset.yaml")
    return found


def _only_channel(name: str, volume: Volume) -> str:
    if name in volume.channels:
        return name
    if len(volume.channels) > 1:
        raise UserError(f"{volume.uri}: no channel '{name}'; its channels: {', '.join(volume.channels)}")
    return volume.channels[0]
