"""Tiles as the colour photographs that published judges (LPIPS, Inception) were trained on."""

from __future__ import annotations

from torch import Tensor

from metgan_dist.errors import UserError


def as_rgb(images: Tensor, score: str) -> Tensor:
    """Tiles (N, C, H, W) of any floating type as float32 (N C, 3, H, W), values unchanged.

    Each channel counts as a grey photograph, which has three equal channels: a microscope's channels are no colours,
    and any number of them will do.

    Args:
        score: who asks, for the message.

    Raises:
        UserError: volumes.
    """
    if images.ndim != 4:
        raise UserError(f"{score}: needs two-dimensional tiles, got shape {tuple(images.shape)}; leave this score out")
    return images.float().flatten(0, 1).unsqueeze(1).expand(-1, 3, -1, -1)
