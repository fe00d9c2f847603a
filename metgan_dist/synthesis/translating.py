"""One volume translated into the other domain: read, brought to the generator's voxels, made, written and labelled."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from metgan_dist.recipe import Tiles
from metgan_dist.storage import Options
from metgan_dist.synthesis.filling import RSS_UNIT
from metgan_dist.synthesis.originals import Original
from metgan_dist.synthesis.replica import Replica
from metgan_dist.synthesis.target_range import as_stored
from metgan_dist.synthesis.volume_files import Made, voxels_digest, write_made
from metgan_dist.synthesis.voxel_grid import VoxelGrid
from metgan_dist.tiles.cut import resample
from metgan_dist.tiles.intensity import Histogram, normalise
from metgan_dist.tiles.ranges import range_of
from metgan_dist.volumes.labelled import LabelledVolume
from metgan_dist.volumes.layers import layers_of
from metgan_dist.volumes.volume import whole

TILE_PIXELS = 256 * 256  # of the tiles that `synthesis.batch_size` counts


@dataclass(frozen=True)
class Translation:
    """What all volumes share, small enough to travel.

    model: checkpoint; tiles: the section with the rules of the domain that is translated; back: from the target to the
    source; around_heart: of each volume only the box that tiles were cut from; channels, ranges, dtype: of what is
    written; label_values: what is written of each class, background first; classes: names of the written values; form:
    as `write_made` has it; folder: of the data set.
    """

    model: str
    tiles: Tiles
    back: bool
    around_heart: bool
    channels: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]
    dtype: str
    label_values: tuple[int, ...]
    classes: dict[int, str]
    form: str
    folder: str
    overlap: float
    batch_size: int
    seed: int
    precision: str
    threads: int
    device: str
    options: Options = field(repr=False)  # may hold a secret


class Translates(Protocol):
    """What translates a volume on the generator's voxels."""

    def translate(self, image: np.ndarray, label: np.ndarray | None, /) -> np.ndarray:
        """Of an image (C, z, y, x) in [-1, 1] and its label (z, y, x), the image (C, z, y, x) in the other domain."""


class Seen(NamedTuple):
    """A volume as the generator sees it: grid, image (C, z, y, x) in [-1, 1], classes (z, y, x) or None."""

    grid: VoxelGrid
    image: np.ndarray
    label: np.ndarray | None


class Translator:
    """Translates whole volumes, each held in memory, with one replica of the generator or what stands for it."""

    def __init__(self, job: Translation, generator: Translates | None = None) -> None:
        self._job = job
        self._generator = Windowed(job) if generator is None else generator

    def translate(self, original: Original) -> dict[str, Any]:
        """Write one volume; its entry in the dataset.yaml, the SHA-256 of its voxels, and how many each class has."""
        job, volume = self._job, original.ref.open()
        seen = as_seen(volume, original, job)
        image = as_stored(self._generator.translate(seen.image, seen.label), job.ranges, np.dtype(job.dtype))
        written = None if seen.label is None else as_values(seen.label, job.label_values)
        planes = None if original.planes is None else list(original.planes)
        names, table = volume.names, volume.table
        made = Made(
            original.name,
            job.channels,
            image,
            written,
            job.classes,
            seen.grid.spacing(volume.spacing),
            None if volume.affine is None else seen.grid.affine(volume.affine),
            volume.lies,
            None if names is None or planes is None else tuple(names[plane] for plane in planes),
            None if table is None or planes is None else table.iloc[planes],
            job.ranges,
        )
        entry = write_made(made, job.form, job.folder, job.options)
        return {
            "name": original.name,
            "entry": entry,
            "sha256": voxels_digest([image, *([] if written is None else [written])]),
            "shape": list(image.shape[1:]),
            "label_voxels": [] if seen.label is None else np.bincount(seen.label.ravel(), minlength=2).tolist(),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
        }


def translator(job: Translation) -> Callable[[Original], dict[str, Any]]:
    """`Translator.translate` with a generator that is loaded once."""
    return Translator(job).translate


class Windowed:
    """A trained generator in sliding windows of its tiles' size: of whole volumes, or plane by plane."""

    def __init__(self, job: Translation) -> None:
        self._job = job
        self._replica = Replica(
            job.model, None, device=job.device, precision=job.precision, threads=job.threads, options=job.options
        )
        self._replica.keep(tuple(self._replica.method.networks))

    def translate(self, image: np.ndarray, label: np.ndarray | None, /) -> np.ndarray:
        """As `Translates.translate`."""
        if self._job.tiles.dimensions == 3:
            return self._made(image[None], None if label is None else label[None])[0]
        made = [
            self._made(image[:, planes].swapaxes(0, 1), None if label is None else label[planes])
            for planes in batches(image.shape[1], self._job.batch_size)
        ]
        return np.concatenate(made).swapaxes(0, 1)

    def _made(self, images: np.ndarray, label: np.ndarray | None) -> np.ndarray:
        """Of images (N, C, [D,] H, W); where tiles are resized for the generator, images are resized as a whole."""
        job, tiles = self._job, self._job.tiles
        edges = images.shape[2:]
        inner = network_edges(tiles, edges)
        if inner != edges:
            images = np.stack([[resample(one, inner, is_label=False) for one in own] for own in images])
            label = None if label is None else np.stack([resample(own, inner, is_label=True) for own in label])
        made = self._replica.translate(
            np.ascontiguousarray(images, np.float32),
            label,
            tiles.shape,
            back=job.back,
            overlap=job.overlap,
            at_once=max(1, job.batch_size * TILE_PIXELS // int(np.prod(tiles.shape))),
            seed=job.seed,
        )
        if inner != edges:
            made = np.stack([[resample(one, edges, is_label=False) for one in own] for own in made])
        return made


def as_seen(volume: LabelledVolume, original: Original, job: Translation) -> Seen:
    """A volume on the generator's voxels, normalised by the ranges that its tiles had."""
    label = volume.read("label", whole(volume)) if volume.has("label") else None
    if job.around_heart and label is not None:
        grid = VoxelGrid.around_heart(job.tiles, volume, label)
    else:
        grid = VoxelGrid.over(job.tiles, volume)
    planes = slice(None) if original.planes is None else list(original.planes)
    if label is not None:
        box = tuple(slice(*span) for span in grid.region)
        label = grid.brought(label[box], is_label=True)[planes]
    role = "tumour" if job.back else "anatomy"
    layers = layers_of(role, len(original.ref.tumour if job.back else original.ref.anatomy))
    images = []
    for number, layer in enumerate(layers):
        voxels = grid.brought(volume.read(layer, grid.region), is_label=False)[planes]
        ends = None if original.ranges is None else original.ranges[number]
        images.append(normalised(voxels, job.tiles, ends))
    return Seen(grid, np.stack(images), label)


def network_edges(tiles: Tiles, edges: Sequence[int]) -> tuple[int, ...]:
    """Edges of an image as a network sees it whose tiles were resized: in the same proportion."""
    sizes = tiles.size if len(tiles.size) == tiles.dimensions else tiles.size * tiles.dimensions
    return tuple(
        max(1, round(edge * pixels / size)) for edge, pixels, size in zip(edges, tiles.shape, sizes, strict=True)
    )


def normalised(voxels: np.ndarray, tiles: Tiles, ends: tuple[float, float] | None) -> np.ndarray:
    """Voxels (z, y, x) in [-1, 1], by the range that all tiles had, or each plane (crops: the volume) by its own."""
    if ends is not None:
        return normalise(voxels, *ends, clip=tiles.clip)
    parts = voxels if tiles.dimensions == 2 else voxels[None]
    own = [normalise(part, *range_of(Histogram.of(part), tiles), clip=tiles.clip) for part in parts]
    return np.stack(own) if tiles.dimensions == 2 else own[0]


def as_values(label: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    """Classes as the values of label files, in the smallest type that holds them."""
    kinds = (np.uint8, np.uint16, np.int32)
    kind = next(kind for kind in kinds if np.iinfo(kind).min <= min(values) <= max(values) <= np.iinfo(kind).max)
    return np.array(values, kind)[label]


def batches(count: int, size: int) -> Iterator[slice]:
    yield from (slice(first, first + size) for first in range(0, count, size))
