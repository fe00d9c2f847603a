"""Intensities to [-1, 1] and back: histograms that add up, the ranges taken from them, the map and its inverse.

normalised = 2 (v - low) / (high - low) - 1. The pair (low, high) is stored with every tile and channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

# 8- and 16-bit integers are counted exactly. Other values of one block stand for this many evenly spaced ranks, so
# a percentile is off by at most 100 / RANKS percent of the pixels; minimum and maximum are exact.
RANKS = 16_384
MOST_VALUES = 2**18
PIXELS_AT_ONCE = 2**21


@dataclass(frozen=True)
class Histogram:
    """Different values, ascending (float64), and how many pixels each stands for (float64)."""

    values: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(pixels: np.ndarray) -> Histogram:
        """Of finite pixels of any shape and number type; at least one."""
        flat = pixels.ravel()
        if np.issubdtype(flat.dtype, np.integer) and flat.dtype.itemsize <= 2:
            low = min(0, int(np.iinfo(flat.dtype).min))
            # Counting takes one pass and a table of 65536 numbers at most, and is exact.
            counts = np.bincount(flat if low == 0 else flat.astype(np.int32) - low)
            values = np.flatnonzero(counts)
            return Histogram((values + low).astype(np.float64), counts[values].astype(np.float64))
        if flat.size > RANKS:
            # The first and the last rank are among them: minimum and maximum stay exact.
            ranked = np.sort(flat)[np.linspace(0, flat.size - 1, RANKS).round().astype(np.int64)]
        else:
            ranked = flat
        values, counts = np.unique(ranked.astype(np.float64), return_counts=True)
        return Histogram(values, counts * (flat.size / ranked.size))

    @staticmethod
    def of_tiles(tiles: Sequence[np.ndarray]) -> Histogram:
        """Of all pixels of tiles of one dtype, some millions at a time."""
        together = max(1, PIXELS_AT_ONCE // tiles[0].size)
        groups = (tiles[first : first + together] for first in range(0, len(tiles), together))
        return Histogram.merge(Histogram.of(np.concatenate([tile.ravel() for tile in group])) for group in groups)

    @staticmethod
    def merge(parts: Iterable[Histogram]) -> Histogram:
        """Of all pixels together; the result depends on the order of the parts only for values kept as ranks."""
        listed = list(parts)
        values, where = np.unique(np.concatenate([part.values for part in listed]), return_inverse=True)
        counts = np.bincount(where, weights=np.concatenate([part.counts for part in listed]))
        if len(values) > MOST_VALUES:
            ends = np.linspace(0, len(values), MOST_VALUES + 1).round().astype(np.int64)
            sums = np.add.reduceat(counts, ends[:-1])
            # A group stands at its largest value, the first at its smallest: both ends stay where they are.
            kept = ends[1:] - 1
            kept[0] = 0
            values, counts = values[kept], sums
        return Histogram(values, counts)

    @property
    def pixels(self) -> float:
        """All the pixels that it stands for: the sum of `counts`."""
        return float(self.counts.sum())

    def percentile(self, percent: float) -> float:
        """The smallest value that at least `percent` of the pixels do not exceed (numpy's "inverted_cdf")."""
        running = np.cumsum(self.counts)
        wanted = percent / 100 * running[-1]
        # A little tolerance: sums of weights are not exact.
        return float(self.values[min(int(np.searchsorted(running, wanted - 1e-6)), len(self.values) - 1)])

    def fraction_outside(self, low: float, high: float) -> float:
        """Fraction of the pixels that clipping to [low, high] changes."""
        return float(self.counts[(self.values < low) | (self.values > high)].sum() / self.counts.sum())

    def summary(self) -> dict[str, float]:
        """Number of pixels, minimum, maximum, mean."""
        mean = float((self.values * self.counts).sum() / self.counts.sum())
        return {
            "pixels": self.pixels,
            "minimum": float(self.values[0]),
            "maximum": float(self.values[-1]),
            "mean": mean,
        }


def intensity_range(histogram: Histogram, normalise: str, percentiles: tuple[float, float]) -> tuple[float, float]:
    """(low, high) that become -1 and 1; `none` gives (-1, 1), which changes nothing.

    high may equal low where the pixels are constant: the caller knows whether that is a mistake.
    """
    if normalise == "none":
        return -1.0, 1.0
    if normalise == "minmax":
        return float(histogram.values[0]), float(histogram.values[-1])
    return histogram.percentile(percentiles[0]), histogram.percentile(percentiles[1])


def normalise(image: np.ndarray, low: float, high: float, *, clip: bool) -> np.ndarray:
    """Intensities as float32, low -> -1, high -> 1; with `clip` nothing lies outside [-1, 1]."""
    # float32 holds 16-bit intensities exactly, at half the memory of float64.
    scaled = (image.astype(np.float32) - np.float32(low)) * np.float32(2 / (high - low)) - np.float32(1)
    return np.clip(scaled, -1, 1, out=scaled) if clip else scaled


def invert(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """The intensities (float32) that `normalise` made into this image; clipped ones come back as low or high."""
    return (image.astype(np.float32) + np.float32(1)) * np.float32((high - low) / 2) + np.float32(low)
