"""OME-Zarr 0.4 and 0.5 (zarr v2 and v3, sharded or not): images and label groups, any axes order, any pyramid level."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.storage import FsspecStore, LocalStore

from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.storage import (
    Options,
    absolute,
    basename,
    file_size,
    is_local,
    join,
    one_line,
    parent,
    storage_errors,
    storage_options,
)
from metgan_dist.volumes.axes import canonical_axes
from metgan_dist.volumes.blosc import use_whole_blosc
from metgan_dist.volumes.ome_metadata import multiscale_of
from metgan_dist.volumes.volume import Region, Spacing, Stated, Volume, spacing_of

use_whole_blosc()

METADATA_FILES = {"zarr.json", ".zgroup", ".zattrs", ".zarray"}


class OmeZarr(Volume):
    """One pyramid level of an OME-Zarr image, or of one of its label groups (`image.ome.zarr/labels/<name>`).

    Reads only the chunks (or the inner chunks of the shards) that a region touches. `levels` and `labels` name the
    levels and the label groups that the metadata lists.

    Raises UserError for a group without multiscales or an unknown level, DamagedFile for a level without its array.
    """

    def __init__(
        self,
        uri: str,
        stated: Stated | None = None,
        *,
        level: str | None = None,
        options: Options | None = None,
        missing_chunks: str = "error",
    ) -> None:
        self._stated = stated = stated or Stated()
        self.uri = uri
        self._options = options
        self._store = zarr_store(uri, options)
        attributes = self._attributes("")
        image, channels = multiscale_of(uri, attributes)
        datasets = {str(dataset.path): dataset for dataset in image.datasets}
        self.levels = tuple(datasets)
        self.level = level if level is not None else self.levels[0]
        if self.level not in datasets:
            raise UserError(f"{uri}: no level '{level}'; its levels: {', '.join(self.levels)}")
        self._array = self._open_array()
        names, units = image.named_axes(self._array.ndim)
        self._axes = canonical_axes(uri, stated.axes or names, self._array.shape)
        self.source_axes, self.shape = self._axes.source, self._axes.shape
        self.channels = stated.channels_or(uri, channels, self._axes.channels)
        self.dtype = np.dtype(self._array.dtype).newbyteorder("=")
        self.chunks = self._axes.along(self._array.chunks, 1)
        scales = image.scales(datasets[self.level])
        found = None if stated.axes else _spacing(scales, names, units)
        if found is None and stated.spacing is None and not stated.axes:
            _check_scales(uri, scales, names)
        self.spacing = stated.spacing_or(uri, found)
        # Writers leave out empty chunks of label arrays, so an absent one there is no sign of damage.
        self.is_label = "image-label" in attributes or basename(parent(uri)) == "labels"
        self._check_missing = missing_chunks == "error" and not self.is_label

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the label groups that the image lists."""
        try:
            return tuple(str(name) for name in self._attributes("labels").get("labels", []))
        except UserError:
            return ()

    def overview(self) -> Volume | None:
        """Itself where it is small, else its coarsest level, if that is small and there."""
        if super().overview() is self or self.level == self.levels[-1]:
            return super().overview()
        level = self.levels[-1]
        try:
            return OmeZarr(self.uri, self._stated, level=level, options=self._options, missing_chunks="fill").overview()
        except DamagedFile:
            return None  # no tile is read from that level

    def _attributes(self, path: str) -> dict[str, Any]:
        """Attributes of a group; in OME-Zarr 0.5 they stand under "ome"."""
        try:
            with storage_errors(self.uri):
                # Consolidated metadata may be older than the groups, and not know of a label that was added.
                group = zarr.open_group(self._store, path=path, mode="r", use_consolidated=False)
        except zarr.errors.ContainsArrayError as error:
            raise UserError(f"{self.uri}: a single Zarr array, no OME-Zarr image (no multiscales)") from error
        except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
            raise UserError(f"{self.uri}: no Zarr group with multiscales metadata; not an OME-Zarr image") from error
        except UserError:
            raise
        except Exception as error:  # of metadata that are no metadata Zarr makes what it likes
            raise DamagedFile(
                f"{self.uri}: its Zarr metadata cannot be read: {one_line(error)}; copy it again"
            ) from error
        attributes = dict(group.attrs)
        nested = attributes.get("ome")
        return nested if isinstance(nested, dict) else attributes

    def _open_array(self) -> zarr.Array:
        place = join(self.uri, self.level)
        try:
            with storage_errors(self.uri):
                array = zarr.open_array(self._store, path=self.level, mode="r")
        except (FileNotFoundError, zarr.errors.NodeNotFoundError, zarr.errors.ContainsGroupError) as error:
            raise DamagedFile(
                f"{place}: the metadata names this level, but no array is there; copy it again"
            ) from error
        except UserError:
            raise
        except Exception as error:  # as above
            raise DamagedFile(
                f"{place}: its array metadata cannot be read: {one_line(error)}; copy it again"
            ) from error
        if any(edge < 1 for edge in array.chunks):
            raise DamagedFile(f"{place}: chunks of {array.chunks} in its array metadata hold no voxels; copy it again")
        return array

    def _read(self, channel: int, region: Region) -> np.ndarray:
        index = self._axes.index(channel, region)
        try:
            with storage_errors(self.uri):
                array = np.asarray(self._array[index])
        except UserError:
            raise
        except Exception as error:  # codecs raise what they like
            key = self._unreadable_chunk(index)
            raise DamagedFile(
                f"{join(self.uri, self.level, key)}: cannot be read: {one_line(error)}; copy it again"
            ) from error
        if self._check_missing or self._array.shards is not None:
            self._refuse_missing(index, array)
        return self._axes.canonical(array)

    def _refuse_missing(self, index: tuple[int | slice, ...], array: np.ndarray) -> None:
        """DamagedFile for an absent chunk file, unless it may be absent, and for an empty shard, which zarr reads as
        absent chunks; looked for only where a chunk's part of the read is all fill value."""
        fill = self._array.fill_value if self._array.fill_value is not None else 0
        # The array has no axis where the index is a number, as the channel's is.
        starts = [i.start for i in index if isinstance(i, slice)]
        for key, chunk in self._stored_chunks(index):
            spans = [i for i in chunk if isinstance(i, slice)]
            values = array[tuple(slice(i.start - a, i.stop - a) for i, a in zip(spans, starts, strict=True))]
            if not _all_equal(values, fill):
                continue
            file = join(self.uri, self.level, key)
            bytes_stored = file_size(file, self._options)
            if bytes_stored == 0:
                raise DamagedFile(f"{file}: the file is empty; copy the volume again")
            if bytes_stored is None and self._check_missing:
                raise DamagedFile(
                    f"{file}: chunk file is missing; copy the volume again, or set data.missing_chunks to fill if this "
                    "region was never written"
                )

    def _stored_chunks(self, index: tuple[int | slice, ...]) -> Iterator[tuple[str, tuple[int | slice, ...]]]:
        """Key of each stored chunk (the shard, where sharded) that an index touches, and the part of the index."""
        sizes = self._array.shards or self._array.chunks
        ranges = [(i, i + 1) if isinstance(i, int) else (i.start, i.stop) for i in index]
        grids = [range(a // size, (b - 1) // size + 1) for (a, b), size in zip(ranges, sizes, strict=True)]
        for position in itertools.product(*grids):
            inside = tuple(
                i if isinstance(i, int) else slice(max(n * size, i.start), min((n + 1) * size, i.stop))
                for n, size, i in zip(position, sizes, index, strict=True)
            )
            yield self._array.metadata.encode_chunk_key(position), inside

    def _unreadable_chunk(self, index: tuple[int | slice, ...]) -> str:
        """Key of the first stored chunk of an index that cannot be decoded, found by reading them one by one."""
        for key, chunk in self._stored_chunks(index):
            try:
                np.asarray(self._array[chunk])
            except Exception:  # the one we look for; the joint read has raised its error
                return key
        return ""


def zarr_store(uri: str, options: Options | None, *, read_only: bool = True) -> LocalStore | FsspecStore:
    """The Zarr store at a path or URI."""
    if is_local(uri):
        return LocalStore(absolute(uri), read_only=read_only)
    with storage_errors(uri):
        return FsspecStore.from_url(uri, storage_options=storage_options(uri, options), read_only=read_only)


def _spacing(scales: Sequence[Sequence[float]], names: str, units: list[str | None]) -> Spacing | None:
    """Voxel size of a level: its own scale times the scale that holds for all levels."""
    if not scales or any(len(scale) != len(names) for scale in scales) or "y" not in names or "x" not in names:
        return None
    total = np.prod(np.asarray(scales, dtype=float), axis=0)
    positions = [names.find(axis) for axis in "zyx"]
    in_plane = units[positions[1]]
    return spacing_of(
        [total[p] if p >= 0 else 1.0 for p in positions], [units[p] if p >= 0 else in_plane for p in positions]
    )


def _check_scales(uri: str, scales: Sequence[Sequence[float]], names: str) -> None:
    """UserError for a scale that has not one number for each axis."""
    wrong = [scale for scale in scales if len(scale) != len(names)]
    if wrong:
        raise UserError(
            f"{uri}: scale {list(wrong[0])} in its metadata has {len(wrong[0])} numbers for the {len(names)} axes "
            f"'{names}'; correct it, or state `spacing` in the data set"
        )


def _all_equal(values: np.ndarray, fill: Any) -> bool:
    """Whether all values are the fill value (NaN equals NaN); the first one settles nearly every chunk."""
    return all(
        bool(np.array_equal(part, np.full_like(part, fill), equal_nan=part.dtype.kind == "f"))
        for part in (values.flat[:1], values)
    )
