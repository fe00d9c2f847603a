"""Images and volumes brought to another size by cubic interpolation, smoothed where they shrink."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional


def resize(image: Tensor, edges: Sequence[int]) -> Tensor:
    """Images (N, C, H, W) or volumes (N, C, D, H, W) with the spatial edges `edges`.

    Bicubic with antialiasing as torch, and Pillow, have it for images: the kernel is as wide as the pixels that it
    makes. It is separable, so that a volume is resized in its planes and then along its depth.
    """
    if tuple(image.shape[2:]) == tuple(edges):
        return image
    if image.dim() == 4:
        return _cubic(image, edges)
    channels, depth = image.shape[1:3]
    flat = _cubic(image.flatten(1, 2), edges[1:]).unflatten(1, (channels, depth))
    return _cubic(flat.flatten(3), (edges[0], edges[1] * edges[2])).unflatten(3, tuple(edges[1:]))


def _cubic(image: Tensor, edges: Sequence[int]) -> Tensor:
    return functional.interpolate(image, tuple(edges), mode="bicubic", antialias=True)
