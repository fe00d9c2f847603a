"""Tiles as the colour photographs that published judges (LPIPS, Inception) were trained on."""

from __future__ import annotations

from torch import Tensor

from metgan_dist.errors import UserError


def as_rgb(images: Tensor, score: str) -> Tensor:
    """Tiles (N, 1 or 3, H, W) of any floating type as float32 (N, 3, H, W), values unchanged.

    One channel is repeated three times, as a grey photograph has three equal channels; three channels are taken as
    red, green and blue.

    Args:
        score: who asks, for the message.

    Raises:
        UserError: another number of channels, or volumes.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(
            f"{score}: needs two-dimensional tiles of one or three channels, got shape {tuple(images.shape)}; "
            "leave this score out"
        )
    return images.float().expand(-1, 3, -1, -1)
