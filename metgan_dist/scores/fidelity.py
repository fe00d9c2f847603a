"""What label fidelity, a judge's Dice on images against the labels imposed on them, can and cannot say."""

from __future__ import annotations

BLIND = 0.05  # Dice on real images: below it the judge finds next to nothing of what is there


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
