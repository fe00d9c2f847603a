"""How far the surfaces of a found and a true region lie apart, class by class (MONAI's distances).

Dice tells how much of a region is met, and forgives a thin sheet all over a large one; these tell how far its wall is
off. Where either map lacks a class there is no distance (NaN), which is neither good nor bad: what was missed there is
for Dice to say.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SURFACE_SCORES = ("assd", "hd95")
PERCENTILE = 95.0


def surface_distances(
    predicted: Tensor, label: Tensor, classes: int = 2, spacing: Sequence[float] | None = None
) -> dict[str, np.ndarray]:
    """Distances of each map, columns (N,) float64 by foreground class k, in the unit of `spacing`, else in pixels.

    ``assd_k``: average symmetric surface distance, over the surface pixels of both maps together, each to the nearest
    one of the other. ``hd95_k``: the larger of the two 95th percentiles of these distances (Hausdorff's distance
    without its outliers). NaN where one of the maps lacks the class.

    Args:
        predicted, label: integer label maps (N, H, W) or (N, D, H, W), values 0..classes-1.
        classes: number of classes, background included.
        spacing: of pixels, along each axis of a map.
    """
    distances = {f"{name}_{k}": np.full(len(label), np.nan) for k in range(1, classes) for name in SURFACE_SCORES}
    for n, (found, true) in enumerate(zip(predicted.cpu(), label.cpu(), strict=True)):
        for k in range(1, classes):
            masks = found == k, true == k
            if all(bool(mask.any()) for mask in masks):
                values = _distances(*masks, spacing)
                for name, value in zip(SURFACE_SCORES, values, strict=True):
                    distances[f"{name}_{k}"][n] = value
    return distances


def _distances(found: Tensor, true: Tensor, spacing: Sequence[float] | None) -> tuple[float, float]:
    """Both distances of two masks ([D,] H, W) that are not empty."""
    # MONAI takes many seconds to import.
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_distance import compute_average_surface_distance

    pair = found[None, None], true[None, None]
    voxel = None if spacing is None else list(spacing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's use of what it has itself deprecated
        average = compute_average_surface_distance(*pair, include_background=True, symmetric=True, spacing=voxel)
        farthest = compute_hausdorff_distance(*pair, include_background=True, percentile=PERCENTILE, spacing=voxel)
    return float(torch.as_tensor(average).item()), float(torch.as_tensor(farthest).item())
