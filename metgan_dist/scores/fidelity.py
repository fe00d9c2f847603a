"""What label fidelity, a judge's Dice on images against the labels imposed on them, can and cannot say."""

from __future__ import annotations

import math

SHARE = "label_fidelity_of_real"  # label fidelity over what the judge finds in the real images
BLIND = 0.05  # Dice on real images: below it the judge finds next to nothing of what is there

LEARNED = 0.2  # Dice on validation tiles: below it a segmentor has learned next to nothing


def unlearned(dice: float) -> str | None:
    """What to do about a segmentor of this Dice on its validation tiles; None where that will do."""
    if dice >= LEARNED:
        return None
    return (
        f"warning: it finds next to nothing of the label (Dice {dice:.3f} on validation tiles, below {LEARNED}), so "
        "what it teaches or judges is worth little; let it learn longer (method.segmentor_epochs), at another rate "
        "(method.segmentor_learning_rate) or with more weight on the label (method.segmentor_positive)"
    )


def doubt(real: float | None) -> str | None:
    """Why label fidelity says little, from the judge's Dice on the real images (None: no class occurs); or None."""
    if real is None:
        return "no label fidelity: no class occurs in these tiles, neither labelled nor found"
    if real < BLIND:
        return (
            f"warning: the judge finds next to nothing on the real images (Dice {real:.3f}), so label fidelity says "
            "nothing; let it learn longer (method.segmentor_epochs) or name another (method.judge)"
        )
    return None


def share_of_real(fidelity: float | None, real: float | None) -> float | None:
    """Label fidelity as the share of what the same judge finds on real images; None where one of them says nothing.

    What exceeds 1 is no better than 1: the judge finds more than in real images, which were taken of these very labels.
    """
    if fidelity is None or real is None or math.isnan(fidelity) or real < BLIND:
        return None
    return fidelity / real
