"""The planes of a volume as a generator was trained to see them, read slab by slab, and their intensity ranges.

A model trained on projections sees, for each plane of its output, the maximum of the anatomy over `depth` planes
centred on it; one trained on slices sees the plane itself. Labels are imposed plane by plane (see `filling`). Beyond
its first and last plane a volume is continued by reflection, which adds nothing to a maximum over planes that are in it
already.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from metgan_dist.recipe import Tiles
from metgan_dist.synthesis.blending import AxisTiles
from metgan_dist.tiles.blocks import pieces
from metgan_dist.tiles.geometry import target_factors
from metgan_dist.tiles.intensity import Histogram
from metgan_dist.tiles.ranges import range_of
from metgan_dist.volumes.labelled import LabelledVolume, VolumeRef
from metgan_dist.volumes.layers import Layer
from metgan_dist.volumes.ome_zarr_writer import chunks_and_shards, regions
from metgan_dist.volumes.volume import Range, Region

PIECE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Layout:
    """Which tiles, in voxels of the volume, a generator makes: 2D ones of each plane, or crops.

    depth: planes that a 2D tile runs through, 1 for crops; rows, columns: tiles along y and x; shape: pixels of a tile
    ([D,] H, W) as the generator sees it, to and from which tiles are resized where that is not their size in voxels;
    planes: crops along z, None for 2D tiles.
    """

    depth: int
    rows: AxisTiles
    columns: AxisTiles
    shape: tuple[int, ...]
    planes: AxisTiles | None = None

    @property
    def axes(self) -> tuple[AxisTiles, ...]:
        """The axes of a tile, in the order [z,] y, x."""
        return (self.rows, self.columns) if self.planes is None else (self.planes, self.rows, self.columns)

    @staticmethod
    def of(tiles: Tiles, volume: LabelledVolume, overlap: float) -> Layout:
        """From the recipe section that the model's tiles were cut with (2D ones along z, or crops).

        Raises UserError for tiles of another voxel size, where the volume does not say its own.
        """
        at = volume.spacing
        factors = target_factors(tiles, volume.id, (at.z, at.y, at.x) if at else None)
        edges = tiles.size if len(tiles.size) == tiles.dimensions else tiles.size * tiles.dimensions
        voxels = [max(1, round(edge * factor)) for edge, factor in zip(edges, factors[-len(edges) :], strict=True)]
        lengths = volume.shape[-len(edges) :]
        *planes, rows, columns = (
            AxisTiles.over(length, edge, overlap) for length, edge in zip(lengths, voxels, strict=True)
        )
        deep = tiles.kind == "projection"
        depth = max(1, round((tiles.depth or max(tiles.size)) * factors[0])) if deep else 1
        return Layout(depth, rows, columns, tiles.shape, planes[0] if planes else None)


def projected(volume: LabelledVolume, region: Region, depth: int, layer: Layer = "anatomy") -> np.ndarray:
    """A layer of the anatomy (z, y, x) in a region, each plane the maximum over `depth` centred on it.

    Of an even number one more lies before it. Beside the result, holds a piece of the source: PIECE_BYTES, or one of
    its chunks.
    """
    (first, last), rows, columns = region
    below = depth // 2
    source = max(0, first - below), min(volume.shape[0], last - 1 - below + depth)
    dtype = volume.dtypes[layer]
    # Below all voxels, so that the first one read takes its place in the maximum.
    lowest = np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf
    planes = np.full((last - first, rows[1] - rows[0], columns[1] - columns[0]), lowest, dtype)

    def seen_from(plane: int) -> Range:
        """Output planes [low, high), counted from `first`, whose maximum takes in `plane` of the source."""
        return max(first, plane + below - depth + 1) - first, min(last, plane + below + 1) - first

    for piece in pieces((source, rows, columns), volume.chunks, dtype.itemsize, PIECE_BYTES):
        voxels = volume.read(layer, piece)
        y, x = (slice(a - start, b - start) for (a, b), (start, _) in zip(piece[1:], (rows, columns), strict=True))
        # Planes that the same outputs see are joined first: most of them, where a projection is deep.
        for (low, high), together in itertools.groupby(range(*piece[0]), key=seen_from):
            listed = list(together)
            part = voxels[listed[0] - piece[0][0] : listed[-1] + 1 - piece[0][0]].max(axis=0)
            np.maximum(planes[low:high, y, x], part, out=planes[low:high, y, x])
    return planes


@dataclass(frozen=True)
class SurveyJob:
    """Planes of a layer of the anatomy that one task measures, in the parts that are later filled one by one."""

    ref: VolumeRef
    planes: Range
    tiles: Tiles
    depth: int
    layer: Layer = "anatomy"


@dataclass(frozen=True)
class Measured:
    """Of some planes: a histogram of all, and a range for each."""

    planes: Range
    histogram: Histogram
    ranges: list[tuple[float, float]]


def survey_planes(job: SurveyJob) -> Measured:
    """Measure a layer as the generator will see it, and check every label value; UserError for a wrong one."""
    volume = job.ref.open()
    by_plane: list[list[Histogram]] = [[] for _ in range(*job.planes)]
    for _, rows, columns in regions((1, *volume.shape[1:]), chunks_and_shards(volume.shape)[1]):
        region = job.planes, rows, columns
        for listed, plane in zip(by_plane, projected(volume, region, job.depth, job.layer), strict=True):
            listed.append(Histogram.of_tiles([plane]))
        # Read for its check alone: a wrong value is told before anything is generated. Once is enough.
        if job.layer == "anatomy":
            volume.read("label", region)
    planes = [Histogram.merge(listed) for listed in by_plane]
    # Histograms are kept for the volume alone; of each plane two numbers are enough, however many there are.
    ranges = [range_of(histogram, job.tiles) for histogram in planes]
    return Measured(job.planes, Histogram.merge(planes), ranges)


class Survey:
    """What all planes of a layer have in common, gathered from parts that come in the order of their planes."""

    def __init__(self, tiles: Tiles) -> None:
        self._tiles = tiles
        self.histogram: Histogram | None = None
        self._ranges: list[tuple[float, float]] = []

    def add(self, part: Measured) -> None:
        """Take the next planes in."""
        known = [] if self.histogram is None else [self.histogram]
        self.histogram = Histogram.merge([*known, part.histogram])
        self._ranges += part.ranges

    @property
    def over(self) -> str:
        """What the ranges are taken over: "plane" where the training tiles' (2D ones) were, else "volume".

        Also where training took them over a tile: tiles with ranges of their own would not fit together.
        """
        by_plane = self._tiles.normalise_over == "plane" and self._tiles.dimensions == 2
        return "plane" if by_plane else "volume"

    def ranges(self) -> list[tuple[float, float]]:
        """(low, high) of each plane, which become -1 and 1."""
        assert self.histogram is not None
        return self._ranges if self.over == "plane" else [range_of(self.histogram, self._tiles)] * len(self._ranges)
