"""How well the lesions of whole volumes are found, volume by volume, as ISLES 2022 scores it.

Components, and what of them matches, are those of `scores.lesions`. Of a volume with true voxels B and found ones A:

    dice                   2 |A and B| / (|A| + |B|); 1 where both are empty
    f1                     2 TP / (2 TP + FP + FN), TP true components that are found, FN those that are missed, FP
                           found components that match none; 1 where there are neither
    volume_difference      | |A| - |B| |, in millilitres where the size of a voxel is known, else in voxels
    count_difference       | components of A - components of B |
    false_positive_volume  |A|, likewise, of a volume without lesions; others have none (NaN)

They are means over volumes, each counting once, as patients do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metgan_dist.scores.lesions import LesionCounts, match_lesions

VOLUME_SCORES = ("dice", "f1", "volume_difference", "count_difference", "false_positive_volume")
CUBIC_MILLIMETRES = 1000.0  # in a millilitre


@dataclass(frozen=True)
class VolumeCounts:
    """Voxels and components of a volume; ``a + b`` joins parts that have no lesion in common.

    Attributes:
        overlap, predicted, true: voxels that are in both masks, in the found and in the true one.
        lesions: its components, and how they match.
    """

    overlap: int
    predicted: int
    true: int
    lesions: LesionCounts

    @staticmethod
    def of(predicted: np.ndarray, label: np.ndarray) -> VolumeCounts:
        """Of two masks of one shape ([D,] H, W), zero outside; ValueError for different shapes."""
        counts = match_lesions(predicted, label).counts
        found, true = predicted > 0, label > 0
        return VolumeCounts(int((found & true).sum()), int(found.sum()), int(true.sum()), counts)

    def __add__(self, other: VolumeCounts) -> VolumeCounts:
        return VolumeCounts(
            self.overlap + other.overlap,
            self.predicted + other.predicted,
            self.true + other.true,
            self.lesions + other.lesions,
        )

    def scores(self, voxel: float | None = None) -> dict[str, float]:
        """VOLUME_SCORES; `voxel`: millilitres of one, None where that is not known."""
        size, lesions = 1.0 if voxel is None or np.isnan(voxel) else voxel, self.lesions
        both = self.predicted + self.true
        found, true = lesions.matched + lesions.false_positives, lesions.found + lesions.missed
        wrong = lesions.false_positives + lesions.missed
        return {
            "dice": 2 * self.overlap / both if both else 1.0,
            "f1": 2 * lesions.found / (2 * lesions.found + wrong) if lesions.found + wrong else 1.0,
            "volume_difference": abs(self.predicted - self.true) * size,
            "count_difference": float(abs(found - true)),
            "false_positive_volume": float("nan") if self.true else self.predicted * size,
        }


def millilitres(spacing: Sequence[float]) -> float:
    """Of a voxel with these edges in millimetres."""
    return float(np.prod(spacing)) / CUBIC_MILLIMETRES
