"""One block of a whole volume: read its slab, generate the tiles that touch it, blend them, write its shard.

Blocks are the shards of the finest level, so no two of them write to one file. Tiles lie on one grid over the whole
volume: a tile that reaches into two blocks is generated for both, from the same voxels.

The anatomy of a plane is projected as in training, its label is not: a lesion is imposed on the planes on which it
lies, and nowhere else. A projected label would paint it on all planes from which training would have seen it, up to
`depth` - 1 more than it has, and no label of its own shape would fit the image. What is written as label is what was
imposed: the plane's own label, or, where tiles are resized for the generator, what became of it on the way to the
generator's pixels and back. A generator of crops is given the label as it lies, along all axes.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

import numpy as np

from metgan_dist.recipe import Tiles
from metgan_dist.storage import Options
from metgan_dist.synthesis.blending import reflected
from metgan_dist.synthesis.replica import LEVELS, Replica
from metgan_dist.synthesis.slabs import Layout, projected
from metgan_dist.synthesis.source_volume import SourceVolume
from metgan_dist.synthesis.target_range import as_stored
from metgan_dist.tiles.cut import resample
from metgan_dist.tiles.intensity import normalise
from metgan_dist.volumes.labelled import VolumeRef
from metgan_dist.volumes.layers import layers_of
from metgan_dist.volumes.ome_zarr_writer import write_block
from metgan_dist.volumes.volume import Range, Region

# ru_maxrss is in bytes on macOS and in KiB on Linux.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Filling:
    """What all blocks share, small enough to travel.

    model: checkpoint; tiles: the section that its tiles were cut with; ranges: (low, high) of each channel of the
    anatomy, for each plane; tumour, dtype: (low, high) of each channel and type of what is written; target: the
    OME-Zarr; label: its label group; organ: that the volume shows, if known; seed: of what a method draws.
    """

    ref: VolumeRef
    model: str
    tiles: Tiles
    layout: Layout
    ranges: tuple[tuple[tuple[float, float], ...], ...]
    tumour: tuple[tuple[float, float], ...]
    dtype: str
    target: str
    label: str
    organ: str | None
    batch_size: int
    seed: int
    precision: str
    threads: int
    device: str
    options: Options

    @staticmethod
    def of(source: SourceVolume, plan: Mapping[str, Any], target: str, device: str = "cpu") -> Filling:
        """`plan`: `ranges`, `tumour` and `dtype`, as the fields of these names."""
        settings = source.recipe.synthesis
        return Filling(
            source.ref,
            source.model["uri"],
            source.tiles,
            source.layout,
            tuple(tuple((low, high) for low, high in planes) for planes in plan["ranges"]),
            tuple((low, high) for low, high in plan["tumour"]),
            plan["dtype"],
            target,
            source.label_name,
            settings.volume_organ,
            settings.batch_size,
            settings.seed,
            source.recipe.training.precision,
            settings.threads,
            device,
            source.options,
        )


class Generates(Protocol):
    """What makes images of tiles; see `Replica.generate`."""

    def generate(
        self, anatomy: np.ndarray, label: np.ndarray, seed: int, /, *, organs: Sequence[str | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, C, H, W) as uint16 of anatomy and label, and how well the label is found in them."""


class Filler:
    """Fills blocks with one replica of the generator, or with what is given in its place."""

    def __init__(self, filling: Filling, generator: Generates | None = None) -> None:
        self._filling = filling
        self._generator = _replica(filling) if generator is None else generator
        self._volume = filling.ref.open()
        self._dtype = np.dtype(filling.dtype)
        self._layers = layers_of("anatomy", len(filling.ranges))

    def fill(self, region: Region) -> dict[str, Any]:
        """Write a region of the finest level, image and label; its tiles and the SHA-256 of its voxels."""
        filling, axes = self._filling, self._filling.layout.axes
        spans = region[-len(axes) :]
        shape = [stop - start for start, stop in region]
        out, imposed = np.empty((len(filling.tumour), *shape), self._dtype), np.empty(shape, np.uint8)
        for plane, where, canvas in self._canvases(region):
            blended, imposed[where] = self._blended(canvas, plane, spans)
            out[:, *where] = as_stored(blended, filling.tumour, self._dtype)
        for channel, voxels in enumerate(out):
            write_block(filling.target, "s0", region, voxels, filling.options, channel)
        write_block(filling.target, f"labels/{filling.label}/s0", region, imposed, filling.options)
        cells = math.prod(len(axis.touching(span)) for axis, span in zip(axes, spans, strict=True))
        return {
            "region": [list(span) for span in region],
            "tiles": cells * math.prod(shape[: -len(axes)]),
            "sha256": hashlib.sha256(out.tobytes()).hexdigest(),
            "label_voxels": np.bincount(imposed.ravel(), minlength=self._volume.classes).tolist(),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
        }

    def _canvases(self, region: Region) -> Iterator[tuple[int, tuple[Any, ...], _Canvas]]:
        """What a block is made of: each of its planes, or all of it for a generator of crops.

        With the plane whose ranges hold, and where in the block it goes.
        """
        layout = self._filling.layout
        spans = region[-len(layout.axes) :]
        reach = [axis.reach(axis.touching(span)) for axis, span in zip(layout.axes, spans, strict=True)]
        lengths = self._volume.shape[-len(layout.axes) :]
        at = [reflected(span, length) for span, length in zip(reach, lengths, strict=True)]
        box = [(int(places.min()), int(places.max()) + 1) for places in at]
        z, y, x = (*region[: -len(layout.axes)], *box)
        anatomy = [projected(self._volume, (z, y, x), layout.depth, layer) for layer in self._layers]
        label = self._volume.read("label", (z, y, x))
        # What reflection shows several times is read once, and put in place here.
        mesh = np.ix_(*(places - first for places, (first, _) in zip(at, box, strict=True)))
        corner = tuple(start for start, _ in reach)
        if layout.planes is not None:
            yield 0, (), _Canvas([image[mesh] for image in anatomy], label[mesh], corner)
            return
        for number, (*images, classes) in enumerate(zip(*anatomy, label, strict=True)):
            yield z[0] + number, (number,), _Canvas([image[mesh] for image in images], classes[mesh], corner)

    def _blended(self, canvas: _Canvas, plane: int, spans: Sequence[Range]) -> tuple[np.ndarray, np.ndarray]:
        """Of a plane of a block, or of all of it, the blended image (C, [z,] y, x) in [-1, 1] and the imposed label."""
        layout, filling = self._filling.layout, self._filling
        extent = [stop - start for start, stop in spans]
        blended = np.zeros((len(filling.tumour), *extent), np.float32)
        resized = layout.shape != tuple(axis.edge for axis in layout.axes)
        shares = np.zeros((self._volume.classes if resized else 0, *extent), np.float32)
        cells = itertools.product(*(axis.touching(span) for axis, span in zip(layout.axes, spans, strict=True)))
        for batch in _batches(cells, filling.batch_size):
            cut = [self._cut(canvas, cell, plane) for cell in batch]
            made, _ = self._generator.generate(
                np.stack([image for image, _ in cut]),
                np.stack([label for _, label in cut]),
                filling.seed,
                organs=[filling.organ] * len(cut),
            )
            for cell, levels, (_, label) in zip(batch, made, cut, strict=True):
                image = levels.astype(np.float32) * np.float32(2 / LEVELS) - np.float32(1)
                for into, channel in zip(blended, image, strict=True):
                    self._add(into, channel, cell, spans)
                # Most classes are in few tiles, and what is in none adds nothing.
                for number in np.unique(label) if resized else ():
                    self._add(shares[number], (label == number).astype(np.float32), cell, spans)
        # Enlarged and blended as the image is: each voxel is of the class that has most weight there.
        return blended, shares.argmax(axis=0) if resized else canvas.part(spans)

    def _cut(self, canvas: _Canvas, cell: Sequence[int], plane: int) -> tuple[np.ndarray, np.ndarray]:
        """Anatomy (C, [D,] H, W) in [-1, 1] and label of one tile, as in training: resized first, then normalised."""
        layout, clip = self._filling.layout, self._filling.tiles.clip
        place = tuple(
            slice(axis.starts[number] - first, axis.starts[number] - first + axis.edge)
            for axis, number, first in zip(layout.axes, cell, canvas.first, strict=True)
        )
        images, label = [image[place] for image in canvas.images], canvas.label[place]
        if label.shape != layout.shape:
            images = [resample(image, layout.shape, is_label=False) for image in images]
            label = resample(label, layout.shape, is_label=True)
        limits = [planes[plane] for planes in self._filling.ranges]
        return np.stack([normalise(i, *ends, clip=clip) for i, ends in zip(images, limits, strict=True)]), label

    def _add(self, blended: np.ndarray, image: np.ndarray, cell: Sequence[int], spans: Sequence[Range]) -> None:
        """Add the weighted part of a tile that lies in the block."""
        axes = self._filling.layout.axes
        edges = tuple(axis.edge for axis in axes)
        if image.shape != edges:
            image = resample(image, edges, is_label=False)
        into, part, weights = [], [], []
        for axis, number, (start, stop) in zip(axes, cell, spans, strict=True):
            first = axis.starts[number]
            low, high = max(start, first), min(stop, first + axis.edge)
            into.append(slice(low - start, high - start))
            part.append(slice(low - first, high - first))
            weights.append(axis.weights[number, part[-1]])
        # Weights of all tiles over a voxel sum to 1, also across blocks, so no sum of weights has to be kept.
        blended[tuple(into)] += reduce(np.multiply.outer, weights) * image[tuple(part)]


@dataclass(frozen=True)
class _Canvas:
    """A plane, or a block, with what reflection adds: channels of anatomy, label, the voxel that its corner stands for.

    Axes [z,] y, x.
    """

    images: list[np.ndarray]
    label: np.ndarray
    first: tuple[int, ...]

    def part(self, spans: Sequence[Range]) -> np.ndarray:
        """The label of a part of it."""
        return self.label[tuple(slice(a - first, b - first) for (a, b), first in zip(spans, self.first, strict=True))]


def _batches(cells: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(cells, size)):
        yield batch


def _replica(filling: Filling) -> Replica:
    return Replica.of_volumes(
        filling.model,
        device=filling.device,
        precision=filling.precision,
        threads=filling.threads,
        options=filling.options,
    )


def filler(filling: Filling) -> Callable[[Region], dict[str, Any]]:
    """`Filler.fill` with a generator that is loaded once."""
    return Filler(filling).fill
