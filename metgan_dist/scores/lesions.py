"""How well lesions are found, counted lesion by lesion (paper 1, table 4).

A lesion is a connected component of a mask; pixels that touch at an edge or a corner belong together (8 neighbours in
2D, 26 in 3D). A predicted and a true component match when they overlap by at least one pixel; one of them may match
several of the other side.

    recall R     true components that match a predicted one / all true components
    precision P  predicted components that match a true one / all predicted components
    Dice         2 P R / (P + R), 0 where both are 0
    Jaccard      Dice / (2 - Dice)

Counts are added over tiles and divided once (pooled). Where neither side has a component, all four are 1: nothing was
to be found and nothing was. Where one side alone has components, all four are 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # loads a part of itself when that is first used


@dataclass(frozen=True)
class LesionCounts:
    """Components counted over any number of tiles; ``a + b`` joins two counts.

    `found` and `missed` are true components (the true positives and false negatives of the tables), `matched` and
    `false_positives` predicted ones. `found` and `matched` differ where one component meets several.
    """

    found: int = 0
    missed: int = 0
    matched: int = 0
    false_positives: int = 0

    def __add__(self, other: LesionCounts) -> LesionCounts:
        return LesionCounts(
            self.found + other.found,
            self.missed + other.missed,
            self.matched + other.matched,
            self.false_positives + other.false_positives,
        )

    @property
    def precision(self) -> float:
        """Predicted components that match a true one, of all predicted ones."""
        return self._ratio(self.matched, self.false_positives)

    @property
    def recall(self) -> float:
        """True components that match a predicted one, of all true ones."""
        return self._ratio(self.found, self.missed)

    @property
    def dice(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0

    @property
    def jaccard(self) -> float:
        """Dice / (2 - Dice)."""
        return self.dice / (2 - self.dice)

    def _ratio(self, hits: int, others: int) -> float:
        if hits + others:
            return hits / (hits + others)
        return 1.0 if self == LesionCounts() else 0.0


@dataclass(frozen=True)
class LesionMatch:
    """The components of a pair of masks and which of them match.

    Attributes:
        lesions, predictions: int32 maps of the masks' shape, 0 outside, components numbered from 1.
        found: (number of lesions,) bool.
        matched: (number of predictions,) bool.
    """

    lesions: np.ndarray
    predictions: np.ndarray
    found: np.ndarray
    matched: np.ndarray

    @property
    def counts(self) -> LesionCounts:
        """True components found and missed, predicted ones matched and false."""
        found, matched = int(self.found.sum()), int(self.matched.sum())
        return LesionCounts(found, len(self.found) - found, matched, len(self.matched) - matched)

    @property
    def areas(self) -> np.ndarray:
        """(number of lesions,) int64: pixels (voxels) of each true component."""
        return np.bincount(self.lesions.ravel(), minlength=len(self.found) + 1)[1:]

    def brightness(self, image: np.ndarray) -> np.ndarray:
        """(number of lesions,) float64: mean of `image`, of the masks' shape, over each true component."""
        numbers = np.arange(1, len(self.found) + 1)
        return np.asarray(scipy.ndimage.mean(image, self.lesions, numbers), dtype=np.float64).reshape(len(numbers))

    def outcome(self) -> np.ndarray:
        """uint8 map of the masks' shape: 0 nothing, 1 a lesion that was found, 2 one that was missed, 3 a prediction
        that matches none. What is predicted beyond the border of a lesion that it matches is nothing."""
        # A table by component number, 0 being what lies in none, looked up for all pixels at once.
        kinds = np.where(np.append(False, self.found), 1, 2).astype(np.uint8)
        kinds[0] = 0
        wrong = np.append(False, ~self.matched)
        return np.where(wrong[self.predictions], np.uint8(3), kinds[self.lesions])


def components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the connected components of a mask (H, W) or (D, H, W): (int32 map, their number)."""
    # Of full rank: a thin lesion that runs diagonally is one, not a row of single pixels.
    neighbours = scipy.ndimage.generate_binary_structure(mask.ndim, mask.ndim)
    numbered = np.empty(mask.shape, dtype=np.int32)
    return numbered, int(scipy.ndimage.label(mask, neighbours, output=numbered))


def match_lesions(predicted: np.ndarray, label: np.ndarray) -> LesionMatch:
    """Match the components of two masks of one shape, (H, W) or (D, H, W), zero outside.

    Of several classes, match one at a time. Raises ValueError for different shapes.
    """
    if predicted.shape != label.shape:
        raise ValueError(f"lesions need masks of one shape, got {predicted.shape} and {label.shape}")
    (lesions, true_count), (predictions, predicted_count) = components(label > 0), components(predicted > 0)
    both = (lesions > 0) & (predictions > 0)
    found, matched = np.zeros(true_count, dtype=bool), np.zeros(predicted_count, dtype=bool)
    # One pixel is enough: the paper's table counts lesions, not how well their outlines agree.
    found[lesions[both] - 1] = True
    matched[predictions[both] - 1] = True
    return LesionMatch(lesions, predictions, found, matched)


def strata(values: np.ndarray, count: int) -> np.ndarray:
    """Sort values into `count` groups of equal size: the group of each, 0 that of the smallest.

    Groups differ by at most one in size; equal values at a border are told apart by their place.
    """
    group = np.empty(len(values), dtype=np.int64)
    # By rank, not by value: sizes of lesions are skewed, and bins of equal width would be empty or full.
    group[np.argsort(values, kind="stable")] = np.arange(len(values)) * count // max(1, len(values))
    return group
