"""The quality gate: a pair is kept when an independent segmentor finds the imposed label in the generated image."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from metgan_dist.scores.labels import dice

KEPT, REJECTED = "train", "rejected"


def label_dice(found: Tensor, label: Tensor, classes: int) -> np.ndarray:
    """Dice of each tile, the mean over the foreground classes that the imposed or the found label holds.

    found, label: integer label maps (N, [D,] H, W). Returns (N,) float64; 1 where both are empty.
    """
    return np.nan_to_num(dice(found, label, classes), nan=1.0)


def splits(gate_dice: np.ndarray, gate: float) -> np.ndarray:
    """ "train" for pairs that are kept, "rejected" for those below the gate; without a gate (0) all are kept."""
    if not gate:
        return np.full(len(gate_dice), KEPT)
    return np.where(gate_dice >= gate, KEPT, REJECTED)
