"""Lesions of a map that is too large to hold: matched part by part, and put together where they cross a border.

Each part has a margin of one pixel after its end along each axis, which it shares with the parts beyond: the pieces of
one lesion are those that have a pixel in common.

    parts = [match_part(predicted, label, image, corner, whole) for ... in parts of the map]
    lesions, predictions = join_parts(parts)

gives the components, and the matches, of `match_lesions` on the whole map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from metgan_dist.scores.lesions import components

Corner = tuple[int, ...]


@dataclass(frozen=True)
class Pieces:
    """The components of one mask in one part, numbered from 0.

    Attributes:
        area: (pieces,) int64, pixels without those of the margin.
        brightness: (pieces,) float64, sum of the image over these.
        matched: (pieces,) bool, whether one of these is in a component of the other mask.
        shared: (pixels, 2) int64, the pixels that other parts may have too: place in the whole map, number of piece.
    """

    area: np.ndarray
    brightness: np.ndarray
    matched: np.ndarray
    shared: np.ndarray


@dataclass(frozen=True)
class Part:
    """What `match_part` found: the pieces of true and of predicted lesions."""

    lesions: Pieces
    predictions: Pieces


def match_part(predicted: np.ndarray, label: np.ndarray, image: np.ndarray, corner: Corner, whole: Corner) -> Part:
    """Match the components of two masks within one part of a map.

    Args:
        predicted, label: masks ([D,] H, W) of the part and its margin, zero outside of lesions.
        image: of the same shape.
        corner: the part's first pixel in the map.
        whole: pixels of the map with the margins of the last parts.
    """
    both = (predicted > 0) & (label > 0)
    one, other = (_pieces(mask > 0, both, image, corner, whole) for mask in (label, predicted))
    return Part(one, other)


def join_parts(parts: Sequence[Part]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The lesions and the predictions of a map from its parts: a row each, with area, brightness (mean), matched."""
    return _joined([part.lesions for part in parts]), _joined([part.predictions for part in parts])


def _pieces(mask: np.ndarray, both: np.ndarray, image: np.ndarray, corner: Corner, whole: Corner) -> Pieces:
    numbered, count = components(mask)
    core = tuple(slice(0, -1) for _ in mask.shape)
    inside = numbered[core].ravel()
    matched = np.zeros(count + 1, dtype=bool)
    matched[numbered[core][both[core]]] = True
    return Pieces(
        np.bincount(inside, minlength=count + 1)[1:],
        np.bincount(inside, image[core].ravel(), minlength=count + 1)[1:],
        matched[1:],
        _shared(numbered, corner, whole),
    )


def _shared(numbered: np.ndarray, corner: Corner, whole: Corner) -> np.ndarray:
    """Pixels of components on the faces of a part: the first ones may be another's margin, the last are its own."""
    found = []
    for axis, length in enumerate(numbered.shape):
        for end in (0, length - 1):
            where = np.argwhere(np.take(numbered, [end], axis=axis))
            where[:, axis] = end
            found.append(where)
    pixels = np.concatenate(found)
    places = np.ravel_multi_index(tuple((pixels + corner).T), whole)
    return np.stack([places, numbered[tuple(pixels.T)] - 1], axis=1)


def _joined(pieces: Sequence[Pieces]) -> pd.DataFrame:
    sizes = [len(own.area) for own in pieces]
    first = np.cumsum([0, *sizes])
    shared = np.concatenate([np.add(own.shared, [0, start]) for own, start in zip(pieces, first, strict=False)])
    shared = shared[np.argsort(shared[:, 0], kind="stable")]
    same = shared[1:, 0] == shared[:-1, 0]
    links = coo_array((np.ones(same.sum(), bool), (shared[:-1, 1][same], shared[1:, 1][same])), (first[-1], first[-1]))
    _, number = connected_components(links, directed=False)
    table = pd.DataFrame(
        {name: np.concatenate([getattr(own, name) for own in pieces]) for name in ("area", "brightness", "matched")}
    )
    joined = table.groupby(number).agg({"area": "sum", "brightness": "sum", "matched": "any"})
    joined["brightness"] /= joined["area"]
    return joined.reset_index(drop=True)
