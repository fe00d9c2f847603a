"""Random fields that are pure functions of a seed and a position, so that a chunk is drawn without its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Axes = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]

# Standard deviation of a quadratic B-spline of uniform values in [-1, 1]: sqrt(1/3) x sqrt(11/20) per axis
# (the mean over a cell of the summed squares of the spline's three weights is 11/20).
_SPLINE_STD = np.float32((1 / 3) ** 0.5 * 0.55**1.5)


def random_generator(*key: int) -> np.random.Generator:
    """Random numbers that belong to `key`, for example (seed, stream, block z, block y, block x); all non-negative."""
    # One is made for every block and stream, and SFC64 is numpy's fastest to draw from.
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))


def smooth_noise(seed: int, axes: Axes, period: Sequence[float] | float) -> Floats:
    """Smooth random field with zero mean and unit variance on the grid of three coordinate axes.

    Hashed values sit on a lattice with `period` (same unit as the axes; one number or z, y, x) and are joined by
    quadratic B-splines. Returns (len(z), len(y), len(x)) float32; equal positions give equal values on any grid.
    """
    periods = np.broadcast_to(np.asarray(period, dtype=np.float64), 3)
    bases, weights = zip(*(_spline(axis / step) for axis, step in zip(axes, periods, strict=True)), strict=True)
    # Two points beyond the last base, since a position takes three.
    corners = [np.arange(base[0], base[-1] + 3) for base in bases]
    lattice = _hash_lattice(seed, corners)
    # x first and z last: the pass over the full grid then runs along contiguous planes.
    field = _interpolate(lattice.transpose(2, 0, 1), bases[2], weights[2])  # (X, z, y)
    field = _interpolate(field.transpose(2, 1, 0), bases[1], weights[1])  # (Y, z, X)
    field = _interpolate(field.transpose(1, 0, 2), bases[0], weights[0])  # (Z, Y, X)
    field /= _SPLINE_STD
    return field


def soft_step(value: Floats, width: float) -> Floats:
    """A step from 0 (value far below 0) to 1 (far above), `width` wide; the value is changed in place."""
    value *= np.float32(0.5 / width)
    np.tanh(value, out=value)
    value += np.float32(1)
    value *= np.float32(0.5)
    return value


def _spline(position: NDArray[np.float64]) -> tuple[NDArray[np.int64], Floats]:
    """First lattice point and the three weights (3, n) of each position in lattice units; positions ascend."""
    base = np.floor(position).astype(np.int64)
    t = position - base
    # Quadratic: smooth in its slope, with three points an axis (27 in space) where a cubic takes four (64).
    weights = np.stack([0.5 * (1 - t) ** 2, 0.75 - (t - 0.5) ** 2, 0.5 * t**2])
    return base, weights.astype(np.float32)


def _interpolate(values: Floats, base: NDArray[np.int64], weights: Floats) -> Floats:
    """Weighted sum of three neighbours along the first axis: (lattice, ...) to (len(base), ...)."""
    values = np.ascontiguousarray(values)
    first = base - base[0]
    shaped = weights.reshape(3, -1, 1, 1)
    result = values[first]
    result *= shaped[0]
    for k in (1, 2):
        term = values[first + k]
        term *= shaped[k]
        result += term
    return result


def _hash_lattice(seed: int, corners: list[NDArray[np.int64]]) -> Floats:
    """Uniform values in [-1, 1) of lattice points, by the finaliser of SplitMix64 applied once per axis."""
    z, y, x = (corner.astype(np.uint64) for corner in corners)
    start = np.full(1, seed * 0x9E3779B97F4A7C15 % 2**64, dtype=np.uint64)
    bits = _mix(_mix(_mix(start + z)[:, None] + y)[:, :, None] + x)
    # The upper 24 bits, the best mixed ones, and all that a float32 holds exactly.
    return ((bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-23)) - np.float32(1)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # Increment, shifts and multipliers of SplitMix64 (Steele et al. 2014).
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
