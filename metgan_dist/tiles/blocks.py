"""Tiles grouped into blocks that are read at once, so that a chunk of the file is read about once.

A block is what one task reads: the box around its tiles, piece by piece along the chunks, each piece once. Tiles
belong to the cell of a regular lattice that holds the first voxel of their region; the lattice is chosen so that
neighbouring blocks share few chunks while no task holds more than `scaling.tile_memory`: one piece and the
block's tiles. So a projection through a gigabyte needs only memory for its pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.tiles.geometry import TilePlan
from metgan_dist.volumes.volume import Region

Triplet = tuple[int, int, int]

# Blocks this small keep many processors busy on one volume; larger ones only where they save reading.
COMFORTABLE_BYTES = 128 * 2**20
GOOD_OVER_READ = 1.19


@dataclass(frozen=True)
class Block:
    """Tiles of one volume that one task cuts from one box (source voxels)."""

    volume: str
    number: int
    box: Region
    plans: tuple[TilePlan, ...]


def plan_blocks(
    plans: Sequence[TilePlan],
    shape: Triplet,
    chunks: Triplet,
    bytes_per_voxel: int,
    bytes_per_tile: int,
    memory: int,
) -> list[Block]:
    """Group the tiles of one volume.

    Args:
        plans: all tiles of the volume.
        shape: its voxels (z, y, x).
        chunks: voxels (z, y, x) that one read costs at least.
        bytes_per_voxel: of all channels read together.
        bytes_per_tile: of all channels together, as cut and as finished.
        memory: bytes that a block may hold, its voxels and its tiles together.

    Raises UserError naming scaling.tile_memory when a single tile needs more.
    """
    boxes = np.array([plan.region for plan in plans])
    if bytes_per_tile > memory // 2:
        raise UserError(
            f"scaling.tile_memory: one tile of volume {plans[0].volume!r} takes {bytes_per_tile / 2**20:.0f} MiB, "
            f"more than half of the {memory / 2**20:.0f} MiB allowed; raise it, or make the tiles smaller"
        )
    lattice = _choose_lattice(boxes, shape, chunks, bytes_per_voxel, bytes_per_tile, memory)
    cells = [tuple(row) for row in boxes[:, :, 0] // np.array(lattice)]
    members: dict[tuple[int, ...], list[int]] = {}
    for row, cell in enumerate(cells):
        members.setdefault(cell, []).append(row)
    return [
        Block(plans[0].volume, number, _hull(boxes[rows]), tuple(plans[row] for row in rows))
        # Sorted, so that a block's number, and with it the name of its shard, follows from the plan alone.
        for number, (_, rows) in enumerate(sorted(members.items()))
    ]


def piece_limit(memory: int) -> int:
    """Bytes of the memory of a task that go to the piece it reads; the rest is for its tiles."""
    return memory // 4


def pieces(box: Region, chunks: Triplet, bytes_per_voxel: int, limit: int) -> Iterator[Region]:
    """Cut a box into parts of whole chunks (as far as the box reaches), each at most `limit` bytes or one chunk.

    Parts grow along x first, then y, then z, the order in which most files lie on disk.
    """
    extent = [1, 1, 1]
    for axis in (2, 1, 0):
        count = len(_chunk_ids(box, chunks)[axis])
        one = bytes_per_voxel * int(np.prod([extent[a] * chunks[a] for a in range(3)]))
        extent[axis] = max(1, min(count, limit // one))
    spans = []
    for (first, last), chunk, step in zip(box, chunks, extent, strict=True):
        edges = range(first // chunk * chunk, last, chunk * step)
        spans.append([(max(first, edge), min(last, edge + chunk * step)) for edge in edges])
    yield from itertools.product(*spans)


def chunk_reads(blocks: Sequence[Block], chunks: Triplet) -> tuple[int, int]:
    """(chunks that the blocks read, different chunks that their tiles need)."""
    read = 0
    needed: set[tuple[int, ...]] = set()
    for block in blocks:
        read += int(np.prod([len(ids) for ids in _chunk_ids(block.box, chunks)]))
        for region in {plan.region for plan in block.plans}:
            needed.update(itertools.product(*_chunk_ids(region, chunks)))
    return read, len(needed)


def _chunk_ids(region: Region, chunks: Triplet) -> list[range]:
    return [range(a // chunk, (b - 1) // chunk + 1) for (a, b), chunk in zip(region, chunks, strict=True)]


def _hull(boxes: np.ndarray) -> Region:
    low, high = boxes[:, :, 0].min(axis=0), boxes[:, :, 1].max(axis=0)
    z, y, x = ((int(a), int(b)) for a, b in zip(low, high, strict=True))
    return z, y, x


def _choose_lattice(
    boxes: np.ndarray, shape: Triplet, chunks: Triplet, bytes_per_voxel: int, bytes_per_tile: int, memory: int
) -> Triplet:
    """Edges of the cells: of all that fit the memory and read little twice, the one nearest a comfortable size.

    Tiles lie on a grid, so what an edge costs along its axis does not depend on the two others: the cost of a
    lattice is a product of three numbers looked up in three small tables.
    """
    tables = [_axis_table(boxes[:, axis], shape[axis], chunks[axis]) for axis in range(3)]
    # Views have grids of their own, which together fill only a part of the grid of all their starts.
    density = len(boxes) / np.prod([max(1, len(np.unique(boxes[:, axis, 0]))) for axis in range(3)])
    options = []
    for choice in itertools.product(*tables):
        reads = float(np.prod([row[1] for row in choice]))
        voxels = float(np.prod([row[2] for row in choice]))
        count = float(np.prod([row[3] for row in choice])) * density
        tiles = max(1.0, count) * bytes_per_tile
        if tiles <= memory - piece_limit(memory):
            options.append((reads, voxels * bytes_per_voxel + tiles, tuple(row[0] for row in choice)))
    if not options:
        # The tables bound mixed grids from above; the smallest cells hold few tiles, which do fit.
        return tables[0][0][0], tables[1][0][0], tables[2][0][0]
    # Where every lattice reads much twice, those within two per cent of the best count as good, too.
    least = max(GOOD_OVER_READ, min(option[0] for option in options) * 1.02)
    good = [option for option in options if option[0] <= least]
    comfortable = [option for option in good if option[1] <= COMFORTABLE_BYTES]
    # The largest that is comfortable, for fewer tasks; where none is, the smallest, for less memory.
    best = max(comfortable, key=lambda o: (o[1], -o[0])) if comfortable else min(good, key=lambda o: (o[1], o[0]))
    return best[2]  # type: ignore[return-value]


def _axis_table(intervals: np.ndarray, length: int, chunk: int) -> list[tuple[int, float, int, int]]:
    """(edge of a cell, over-read, longest box, most starts in a cell) for growing edges along one axis.

    Over-read: chunks touched by all the boxes, over different chunks touched.
    """
    unique = np.unique(intervals, axis=0)
    first, last = unique[:, 0], unique[:, 1]
    touched = np.zeros(length // chunk + 2, bool)
    for a, b in unique:
        touched[a // chunk : (b - 1) // chunk + 1] = True
    rows = []
    for edge in _edges(length, chunk, int((last - first).max())):
        cells = first // edge
        starts = np.unique(cells, return_index=True)[1]
        low, high = np.minimum.reduceat(first, starts), np.maximum.reduceat(last, starts)
        reads = ((high - 1) // chunk - low // chunk + 1).sum()
        counts = np.diff([*starts, len(first)])
        rows.append((edge, float(reads / touched.sum()), int((high - low).max()), int(counts.max())))
    return rows


def _edges(length: int, chunk: int, box: int) -> list[int]:
    """Cell edges to try: single starts, then multiples of the chunk in steps of about a quarter, then the axis."""
    edges, multiple = [max(1, min(chunk, box))], 1
    while multiple * chunk < length:
        edges.append(multiple * chunk)
        multiple = max(multiple + 1, int(multiple * 1.25))
    return [*dict.fromkeys(edges), length]
