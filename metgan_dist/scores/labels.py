"""How well a label map is met: Dice per tile, and Dice pooled over a set.

Labels are integers 0..classes-1 with 0 the background. A class that neither map holds has no Dice and is left out of
the mean over classes: there was nothing to find, and nothing was found. Where that leaves no class, the Dice is NaN.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor


def dice(predicted: Tensor, label: Tensor, classes: int = 2) -> np.ndarray:
    """Dice of each tile, the mean over the foreground classes that one of the maps holds.

    Args:
        predicted, label: integer label maps (N, H, W) or (N, D, H, W), values 0..classes-1.
        classes: number of classes, background included.

    Returns:
        (N,) float64 in [0, 1]; NaN where both maps are empty. On sparse labels prefer `pooled_dice`.
    """
    overlap, size = _class_counts(predicted, label, classes)
    return mean_dice(np.stack([overlap, size], axis=-1))


def tile_counts(predicted: Tensor, label: Tensor, classes: int = 2) -> dict[str, np.ndarray]:
    """Pixels of each tile, columns (N,) int64 by class k: ``overlap_k`` in both maps, ``size_k`` in one plus the other.

    Args as of `dice`. Tables of such columns are joined as tables are; `pooled_dice` divides their sums.
    """
    overlap, size = _class_counts(predicted, label, classes)
    pairs = ({f"overlap_{k + 1}": overlap[:, k], f"size_{k + 1}": size[:, k]} for k in range(classes - 1))
    return {name: counts for pair in pairs for name, counts in pair.items()}


def count_columns(per_tile: pd.DataFrame) -> list[str]:
    """Names of the columns that `tile_counts` gave; empty where a table has none."""
    return [name for name in per_tile if name.startswith(("overlap_", "size_"))]


def stacked_counts(per_tile: pd.DataFrame) -> np.ndarray:
    """The columns of `tile_counts` in a table, as one array (tiles, classes - 1, 2) of overlaps and sizes."""
    parts = [[name for name in count_columns(per_tile) if name.startswith(part)] for part in ("overlap_", "size_")]
    return np.stack([per_tile[names].to_numpy() for names in parts], axis=-1)


def mean_dice(sums: np.ndarray) -> np.ndarray:
    """Dice of pooled counts (..., classes - 1, 2), the mean over classes that one side has (...); NaN without."""
    overlap, size = sums[..., 0], sums[..., 1]
    classes = (size > 0).sum(axis=-1)
    # The maxima keep what is not used from dividing by 0; a class that neither side has adds 0 to the sum.
    mean = (2 * overlap / np.maximum(size, 1)).sum(axis=-1) / np.maximum(classes, 1)
    return np.where(classes > 0, mean, np.nan)


def pooled_dice(per_tile: pd.DataFrame) -> float:
    """Dice of all tiles of a table with the columns of `tile_counts`: counts are added first, and divided once.

    Tiles without foreground then neither lift nor lower it, except by false positives. NaN where no class occurs.
    """
    return float(mean_dice(stacked_counts(per_tile).sum(axis=0)))


def class_dice(per_tile: pd.DataFrame) -> np.ndarray:
    """As `pooled_dice`, of each foreground class by itself (classes - 1,); NaN for one that does not occur."""
    return mean_dice(stacked_counts(per_tile).sum(axis=0)[:, None])


def _class_counts(predicted: Tensor, label: Tensor, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Two (N, classes - 1) integer arrays: pixels in both maps, pixels in one plus pixels in the other."""
    if predicted.shape != label.shape:
        raise ValueError(f"Dice needs maps of one shape, got {tuple(predicted.shape)} and {tuple(label.shape)}")
    predicted, label = predicted.flatten(1), label.to(predicted.device).flatten(1)
    overlap, size = [], []
    for k in range(1, classes):
        in_predicted, in_label = predicted == k, label == k
        overlap.append((in_predicted & in_label).sum(dim=1))
        size.append(in_predicted.sum(dim=1) + in_label.sum(dim=1))
    return torch.stack(overlap, dim=1).cpu().numpy(), torch.stack(size, dim=1).cpu().numpy()
