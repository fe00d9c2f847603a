"""Where tiles of a set lie beside each other: in the pixels of their plane, or of their volume for crops.

Overlapping tiles show the same place, so what is found on them is joined here before it is counted:

    places, cells = mosaic(tiles.index, tiles.shape, rows)
    for cell in cells:
        canvas = Canvas(cell, channels=1)
        for row, corner in cell.tiles():
            canvas.add(corner, predicted[row])
        canvas.mean()

A place is joined a cell at a time, and a cell is of bounded size: nothing that is held grows with the plane or volume.

Pixels are those of the tiles. Where tiles were resized or resampled that is the grid of the resized images, on which a
tile's corner is rounded to the nearest pixel: tiles whose stride is no whole number of such pixels lie up to half a
pixel beside their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.tiles.geometry import AXES, in_plane

CELL_PIXELS = 2**22  # 2048 x 2048, or 161 x 161 x 161


@dataclass(frozen=True)
class Cell:
    """A part of a place, and the tiles that reach into it.

    Attributes:
        place: number of the place.
        low, high: first pixel of the cell, and the one after its last, along each axis of a tile.
        whole: pixels of the place, from its first to one after its last.
        rows: rows of the tiles that cover a pixel of the cell or of its margin, the one pixel after it along each axis:
            two pixels that touch lie in the cell and margin of one cell, on whatever side of a border.
        corners: (tiles, axes) int64, the first pixel of each.
    """

    place: int
    low: tuple[int, ...]
    high: tuple[int, ...]
    whole: tuple[int, ...]
    rows: np.ndarray
    corners: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels of the cell with its margin."""
        return tuple(high + 1 - low for low, high in zip(self.low, self.high, strict=True))

    def tiles(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """(row, corner) of each tile."""
        for row, corner in zip(self.rows.tolist(), self.corners.tolist(), strict=True):
            yield row, tuple(corner)


class Canvas:
    """What the tiles of a cell say of each pixel of the cell and its margin, averaged where they overlap."""

    def __init__(self, cell: Cell, channels: int) -> None:
        self._low, self._shape = cell.low, cell.shape
        self._sum = np.zeros((channels, *cell.shape), np.float32)
        self._tiles = np.zeros(cell.shape, np.uint16)

    def add(self, corner: Sequence[int], tile: np.ndarray) -> None:
        """Lay a tile (channels, [D,] H, W), whose first pixel is `corner` of the place, on what is there."""
        into, part = [], []
        for first, low, edge, length in zip(corner, self._low, tile.shape[1:], self._shape, strict=True):
            start, stop = max(first - low, 0), min(first - low + edge, length)
            into.append(slice(start, stop))
            part.append(slice(start - (first - low), stop - (first - low)))
        self._sum[:, *into] += tile[:, *part]
        self._tiles[*into] += 1

    def mean(self) -> np.ndarray:
        """float32 (channels, [D,] H, W); 0 where no tile lies."""
        return self._sum / np.maximum(self._tiles, 1)


def mosaic(
    index: pd.DataFrame, shape: tuple[int, ...], rows: np.ndarray, cell_pixels: int = CELL_PIXELS
) -> tuple[pd.DataFrame, list[Cell]]:
    """The places in which the tiles `rows` of an index lie, and the cells of these.

    Args:
        index: of the tile set.
        shape: pixels of a tile, (H, W) or (D, H, W).
        rows: row numbers.
        cell_pixels: that a cell has at most.

    Returns:
        places: a row a place, by its number: volume; view; first and last, the source voxels along the view that a tile
            of it shows (of a crop: 0 and 0); unit, "plane", "slab" (several planes, projected) or "volume"; tiles.
        cells: all that hold a tile or part of one, place after place.
    """
    own = index.iloc[rows].reset_index(drop=True)
    columns = own["view"].map(lambda view: "" if view == "zyx" else view)
    first, last = (_along_view(own, columns, end) for end in (0, 1))
    keys = pd.DataFrame({"volume": own["volume"], "view": own["view"], "first": first, "last": last})
    places: list[dict[str, Any]] = []
    cells: list[Cell] = []
    for number, (key, members) in enumerate(keys.groupby(list(keys), sort=False).indices.items()):
        volume, view, begin, end = key
        unit = "volume" if view == "zyx" else "slab" if end - begin > 1 else "plane"
        places.append(
            {"volume": volume, "view": view, "first": begin, "last": end, "unit": unit, "tiles": len(members)}
        )
        corners = _corners(own.iloc[members], str(view), shape)
        cells += _cells(number, np.asarray(rows)[members], corners, shape, cell_pixels)
    return pd.DataFrame(places), cells


def _along_view(own: pd.DataFrame, views: pd.Series, end: int) -> np.ndarray:
    """First (end 0) or last (1) source voxel of each tile along its view; 0 for crops."""
    at = np.zeros(len(own), dtype=np.int64)
    for axis in AXES:
        at = np.where(views == axis, own[f"{axis}{end}"], at)
    return at


def _corners(tiles: pd.DataFrame, view: str, shape: tuple[int, ...]) -> np.ndarray:
    """First pixel of each tile of one place, padding included, counted from the place's first pixel."""
    corners = np.empty((len(tiles), len(shape)), dtype=np.int64)
    for column, (axis, pixels) in enumerate(zip(in_plane(view), shape, strict=True)):
        name = AXES[axis]
        first = (tiles[f"{name}0"] - tiles[f"pad_{name}0"]).to_numpy()
        last = (tiles[f"{name}1"] + tiles[f"pad_{name}1"]).to_numpy()
        # Of all tiles together: where voxels are resampled, rounding makes some a voxel longer than others.
        corners[:, column] = np.rint((first - first.min()) * (pixels / np.mean(last - first)))
    return corners


def _cells(
    place: int, rows: np.ndarray, corners: np.ndarray, shape: tuple[int, ...], cell_pixels: int
) -> Iterator[Cell]:
    edge = max(1, int(cell_pixels ** (1 / len(shape)) + 1e-6))
    whole = tuple(int(length) + 1 for length in corners.max(axis=0) + shape)
    for number in np.ndindex(*(-(-(length - 1) // edge) for length in whole)):
        low = tuple(edge * k for k in number)
        high = tuple(min(start + edge, length - 1) for start, length in zip(low, whole, strict=True))
        # The margin belongs to it: <=, not <.
        reaching = ((corners <= high) & (corners + shape > low)).all(axis=1)
        if reaching.any():
            yield Cell(place, low, high, whole, rows[reaching], corners[reaching])
