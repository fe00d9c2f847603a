"""Labels to impose on an anatomy: real ones as they are, laid together, or bent (paper 1, section 4.3.3).

A label is uint8 (H, W) or (D, H, W), 0 the background. Only the nearest value is ever taken, so classes never mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Bend:
    """A rotation in the last two axes (degrees), a scale of all axes, and a random field of `elastic` pixels (rms)."""

    angle: float
    scale: float
    elastic: float
    smoothness: float

    @staticmethod
    def draw(
        random: np.random.Generator,
        rotation: float,
        scale: tuple[float, float],
        elastic: float,
        smoothness: float,
    ) -> Bend:
        """An angle within +-`rotation`, and a scale from `scale`, even in its logarithm: halving is as likely as
        doubling."""
        angle = random.uniform(-rotation, rotation)
        low, high = np.log(scale)
        return Bend(round(angle, 3), round(float(np.exp(random.uniform(low, high))), 5), elastic, smoothness)


def merge(labels: Sequence[np.ndarray]) -> np.ndarray:
    """Labels of one shape laid over each other, the last on top, so that one image holds the lesions of all."""
    merged = labels[0].copy()
    for label in labels[1:]:
        np.copyto(merged, label, where=label > 0)
    return merged


def bend(label: np.ndarray, how: Bend, random: np.random.Generator) -> np.ndarray:
    """The label rotated and scaled about the centre of its foreground, and bent; of the same shape.

    May be empty: a lesion of a few pixels can shrink to nothing or leave the tile. `random` draws the elastic field.
    """
    places = np.argwhere(label)
    if not len(places):
        return label.copy()
    centre = (places.min(axis=0) + places.max(axis=0)) / 2
    grid = np.indices(label.shape, dtype=np.float64) - centre.reshape(-1, *[1] * label.ndim)
    turned = grid / how.scale
    sine, cosine = np.sin(np.deg2rad(how.angle)), np.cos(np.deg2rad(how.angle))
    # Where each pixel of the result comes from: the inverse of the turn.
    turned[-2], turned[-1] = cosine * turned[-2] + sine * turned[-1], cosine * turned[-1] - sine * turned[-2]
    source = turned + centre.reshape(-1, *[1] * label.ndim)
    if how.elastic:
        source += displacement(label.shape, how.elastic, how.smoothness, random)
    return ndimage.map_coordinates(label, source, order=0, mode="constant", cval=0)


def displacement(shape: tuple[int, ...], size: float, smoothness: float, random: np.random.Generator) -> np.ndarray:
    """A random field (axes, *shape) in pixels, rms `size`: cubic splines over nodes `smoothness` pixels apart."""
    nodes = [int(np.ceil(edge / smoothness)) + 3 for edge in shape]
    noise = random.standard_normal((len(shape), *nodes))
    places = np.stack(np.meshgrid(*(1 + np.arange(edge) / smoothness for edge in shape), indexing="ij"))
    field = np.stack([ndimage.map_coordinates(part, places, order=3, mode="nearest") for part in noise])
    return field * (size / np.sqrt(np.mean(field**2)))


def lay(drawing: np.ndarray, shape: tuple[int, ...], random: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """A drawing, no larger than `shape`, at a random place of an empty label of that shape: (label, its offset)."""
    offset = [int(random.integers(whole - part + 1)) for whole, part in zip(shape, drawing.shape, strict=True)]
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(first, first + part) for first, part in zip(offset, drawing.shape, strict=True))] = drawing
    return label, offset
