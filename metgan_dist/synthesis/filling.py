"""One block of a whole volume: read its slab, generate the tiles that touch it, blend them, write its shard.

Blocks are the shards of the finest level, so no two of them write to one file. Tiles lie on one grid over the whole
volume: a tile that reaches into two blocks is generated for both, from the same voxels.

The anatomy of a plane is projected as in training, its label is not: a lesion is imposed on the planes on which it
lies, and nowhere else. A projected label would paint it on all planes from which training would have seen it, up to
`depth` - 1 more than it has, and no label of its own shape would fit the image. What is written as label is what was
imposed: the plane's own label, or, where tiles are resized for the generator, what became of it on the way to the
generator's pixels and back.
"""

from __future__ import annotations

import hashlib
import itertools
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from metgan_dist.methods.method import Statistics
from metgan_dist.networks.unet_256 import UNet256
from metgan_dist.recipe import Tiles
from metgan_dist.storage import Options
from metgan_dist.synthesis.blending import reflected
from metgan_dist.synthesis.replica import LEVELS, Replica
from metgan_dist.synthesis.slabs import Layout, projected
from metgan_dist.synthesis.source_volume import SourceVolume
from metgan_dist.tiles.cut import resample
from metgan_dist.tiles.intensity import invert, normalise
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
    statistics: Statistics
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
            settings.volume_statistics,
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
        planes, rows, columns = region
        layout = self._filling.layout
        down, across = layout.rows.touching(rows), layout.columns.touching(columns)
        reach = layout.rows.reach(down), layout.columns.reach(across)
        at = [reflected(span, length) for span, length in zip(reach, self._volume.shape[1:], strict=True)]
        box = tuple((int(places.min()), int(places.max()) + 1) for places in at)
        seen = planes, box[0], box[1]
        anatomy = [projected(self._volume, seen, layout.depth, layer) for layer in self._layers]
        label = self._volume.read("label", seen)
        # What reflection shows several times is read once, and put in place here.
        mesh = np.ix_(at[0] - box[0][0], at[1] - box[1][0])
        shape = [stop - start for start, stop in region]
        filling = self._filling
        out, imposed = np.empty((len(filling.tumour), *shape), self._dtype), np.empty(shape, np.uint8)
        for number, (*images, classes) in enumerate(zip(*anatomy, label, strict=True)):
            canvas = _Canvas([image[mesh] for image in images], classes[mesh], (reach[0][0], reach[1][0]))
            blended, imposed[number] = self._plane(canvas, planes[0] + number, rows, columns)
            out[:, number] = self._intensities(blended)
        for channel, voxels in enumerate(out):
            write_block(filling.target, "s0", region, voxels, filling.options, channel)
        write_block(filling.target, f"labels/{filling.label}/s0", region, imposed, filling.options)
        return {
            "region": [list(span) for span in region],
            "tiles": len(imposed) * len(down) * len(across),
            "sha256": hashlib.sha256(out.tobytes()).hexdigest(),
            "label_voxels": np.bincount(imposed.ravel(), minlength=self._volume.classes).tolist(),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
        }

    def _plane(self, canvas: _Canvas, plane: int, rows: Range, columns: Range) -> tuple[np.ndarray, np.ndarray]:
        """Of one plane of a block, the blended image (C, y, x) in [-1, 1] and the label that was imposed on it."""
        layout, filling = self._filling.layout, self._filling
        extent = rows[1] - rows[0], columns[1] - columns[0]
        blended = np.zeros((len(filling.tumour), *extent), np.float32)
        resized = layout.shape != (layout.rows.edge, layout.columns.edge)
        shares = np.zeros((self._volume.classes if resized else 0, *extent), np.float32)
        cells = itertools.product(layout.rows.touching(rows), layout.columns.touching(columns))
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
                    self._add(into, channel, cell, (rows, columns))
                # Most classes are in few tiles, and what is in none adds nothing.
                for number in np.unique(label) if resized else ():
                    self._add(shares[number], (label == number).astype(np.float32), cell, (rows, columns))
        # Enlarged and blended as the image is: each voxel is of the class that has most weight there.
        return blended, shares.argmax(axis=0) if resized else canvas.part(rows, columns)

    def _cut(self, canvas: _Canvas, cell: Range, plane: int) -> tuple[np.ndarray, np.ndarray]:
        """Anatomy (C, H, W) in [-1, 1] and label of one tile, as in training: resized first, then normalised."""
        layout, clip = self._filling.layout, self._filling.tiles.clip
        place = tuple(
            slice(axis.starts[number] - first, axis.starts[number] - first + axis.edge)
            for axis, number, first in zip((layout.rows, layout.columns), cell, canvas.first, strict=True)
        )
        images, label = [image[place] for image in canvas.images], canvas.label[place]
        if label.shape != layout.shape:
            images = [resample(image, layout.shape, is_label=False) for image in images]
            label = resample(label, layout.shape, is_label=True)
        limits = [planes[plane] for planes in self._filling.ranges]
        return np.stack([normalise(i, *ends, clip=clip) for i, ends in zip(images, limits, strict=True)]), label

    def _add(self, blended: np.ndarray, image: np.ndarray, cell: Range, spans: tuple[Range, Range]) -> None:
        """Add the weighted part of a tile that lies in the block."""
        axes = self._filling.layout.rows, self._filling.layout.columns
        if image.shape != (axes[0].edge, axes[1].edge):
            image = resample(image, (axes[0].edge, axes[1].edge), is_label=False)
        into, part, weights = [], [], []
        for axis, number, (start, stop) in zip(axes, cell, spans, strict=True):
            first = axis.starts[number]
            low, high = max(start, first), min(stop, first + axis.edge)
            into.append(slice(low - start, high - start))
            part.append(slice(low - first, high - first))
            weights.append(axis.weights[number, part[-1]])
        # Weights of all tiles over a voxel sum to 1, also across blocks, so no sum of weights has to be kept.
        blended[tuple(into)] += np.outer(*weights) * image[tuple(part)]

    def _intensities(self, image: np.ndarray) -> np.ndarray:
        """From [-1, 1] to the intensities of the training data's tumour channels (C, y, x), in their type."""
        values = np.stack([invert(own, *ends) for own, ends in zip(image, self._filling.tumour, strict=True)])
        if self._dtype.kind == "f":
            return values.astype(self._dtype)
        limits = np.iinfo(self._dtype)
        return np.rint(values).clip(limits.min, limits.max).astype(self._dtype)


@dataclass(frozen=True)
class _Canvas:
    """A plane with what reflection adds: channels of anatomy, label, the voxel (y, x) that its corner stands for."""

    images: list[np.ndarray]
    label: np.ndarray
    first: tuple[int, int]

    def part(self, rows: Range, columns: Range) -> np.ndarray:
        """The label (y, x) of a part of the plane."""
        spans = zip((rows, columns), self.first, strict=True)
        return self.label[tuple(slice(start - first, stop - first) for (start, stop), first in spans)]


def _batches(cells: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(cells, size)):
        yield batch


def _replica(filling: Filling) -> Replica:
    replica = Replica(
        filling.model,
        None,
        device=filling.device,
        precision=filling.precision,
        threads=filling.threads,
        options=filling.options,
    )
    _keep_what_generates(replica)
    replica.method.statistics = filling.statistics
    return replica


def _keep_what_generates(replica: Replica) -> None:
    """Let go of discriminators and judges, and switch noise off: noise of its own would tell a tile from the next."""
    method = replica.method
    for name in [name for name in method.networks if name not in method.inference]:
        del method.networks[name]
    for module in method.modules():
        if isinstance(module, UNet256):
            module.stochastic = False
