"""What readers make of slices of which some have inserted tumours: shares with exact intervals."""

from __future__ import annotations

from collections.abc import Sequence

import scipy  # loads a part of itself when that is first used

CONFIDENCE = 0.95


def share(right: int, of: int) -> dict[str, float]:
    """A share, its exact binomial interval (Clopper and Pearson) at 95 %, and the counts; without any NaN."""
    if not of:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "right": 0, "of": 0}
    interval = scipy.stats.binomtest(right, of).proportion_ci(CONFIDENCE, method="exact")
    return {"value": right / of, "low": float(interval.low), "high": float(interval.high), "right": right, "of": of}


def reader_scores(inserted: Sequence[bool], said: Sequence[bool]) -> dict[str, dict[str, float]]:
    """Accuracy, sensitivity and specificity of readers who say of slices whether a tumour was inserted into them.

    Intervals take slices as independent. An accuracy of 0.5 is that of guessing where half of the slices are real.

    Args:
        inserted: the truth. said: as many answers.
    """
    pairs = list(zip(inserted, said, strict=True))
    return {
        "accuracy": share(sum(truth == answer for truth, answer in pairs), len(pairs)),
        "sensitivity": share(sum(truth and answer for truth, answer in pairs), sum(truth for truth, _ in pairs)),
        "specificity": share(
            sum(not (truth or answer) for truth, answer in pairs), sum(not truth for truth, _ in pairs)
        ),
    }
