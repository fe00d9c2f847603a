"""What the scores of single inserted tumours come to: their means, and how many stand out no more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.scores.insertion import lost

CONTRASTS = {
    "contrast_of_donor": "where they were cut out",
    "contrast_before": "before",
    "naive_contrast": "pasted",
    "contrast": "made",
}
"""Columns of the table of contrasts, in the order of the work, in words."""
OF_REAL = "real_contrast"
MISSING = float("nan")


def summary(table: pd.DataFrame, real: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over volumes, the largest difference of the background, how many volumes and patients.

    Args:
        table: a row a volume, of numbers beside volume, patient and mask.
        real: contrasts of real tumours in their kind of image.

    `lost_contrast` and the like count tumours that hardly differ from what is around them, of as many as there are.
    """
    numbers = table.drop(columns=["volume", "patient", "mask"]).astype(float)
    scores = {str(name): float(mean) for name, mean in numbers.mean().dropna().items()}
    missing: dict[str, float] = {f"lost_{name}": lost(numbers[name].to_numpy()) for name in CONTRASTS if name in scores}
    own = np.array([one["contrast"] for one in real], float)
    if len(own):
        missing |= {OF_REAL: float(np.nanmean(own)), f"lost_{OF_REAL}": lost(own), "real_tumours": len(own)}
    people = table["patient"].fillna(table["volume"]).nunique()
    background = float(table["background_difference"].max())
    return {**scores, **missing, "background_difference": background, "volumes": len(table), "patients": people}


def told(scores: Mapping[str, Any]) -> Iterator[str]:
    """Two lines for people: steps and intensities; contrasts with how many are lost."""
    yield (
        f"{scores['voxels']:.0f} voxels on average; steps across the border are "
        f"{scores.get('border_ratio', MISSING):.2f} of those around it (pasted: "
        f"{scores.get('naive_border_ratio', MISSING):.2f}), between slices {scores.get('seam_ratio', MISSING):.2f} "
        f"({scores.get('naive_seam_ratio', MISSING):.2f})"
        + (f"; intensities {far:.3f} from real ones'" if (far := scores.get("intensity_distance")) is not None else "")
    )
    parts = [
        f"{words} {scores[name]:.2f} ({scores[f'lost_{name}']} of {scores['volumes']} lost)"
        for name, words in CONTRASTS.items()
        if name in scores
    ]
    if OF_REAL in scores:
        parts.append(f"real ones {scores[OF_REAL]:.2f} ({scores[f'lost_{OF_REAL}']} of {scores['real_tumours']})")
    yield f"contrast in standard deviations: {', '.join(parts)}"
