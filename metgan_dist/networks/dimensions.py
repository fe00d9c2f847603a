"""The torch layers of two and three dimensions, so that each network is written once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Layers:
    """Layer classes of one dimensionality; `linear` is the name of its (bi- or tri-) linear interpolation."""

    convolution: type[nn.Conv2d] | type[nn.Conv3d]
    transposed: type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]
    batch_norm: type[nn.BatchNorm2d] | type[nn.BatchNorm3d]
    instance_norm: type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]
    max_pool: type[nn.MaxPool2d] | type[nn.MaxPool3d]
    linear: str


_LAYERS = {
    2: Layers(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.MaxPool2d, "bilinear"),
    3: Layers(nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.InstanceNorm3d, nn.MaxPool3d, "trilinear"),
}


def layers_of(dimensions: int) -> Layers:
    """Layers for images (N, C, H, W), `dimensions` 2, or volumes (N, C, D, H, W), `dimensions` 3; else ValueError."""
    if dimensions not in _LAYERS:
        raise ValueError(f"dimensions must be 2 or 3, not {dimensions}")
    return _LAYERS[dimensions]


def scaled(channels: int, width: float, least: int = 2) -> int:
    """`channels` of the paper times `width`, rounded, and never below `least`."""
    return max(least, round(channels * width))


def halvings(edges: Sequence[int], most: int) -> tuple[int, ...]:
    """How often each edge can be halved without a remainder, at most `most` times; 0 for an edge of 0."""
    return tuple(next(n for n in range(most, -1, -1) if edge % 2**n == 0) if edge > 0 else 0 for edge in edges)


def check_edges(edges: Sequence[int], divisor: int | Sequence[int], least: int = 1) -> None:
    """ValueError unless each edge of an image is a multiple of `divisor` (one, or one per axis) and `least` or more."""
    divisors = [divisor] * len(edges) if isinstance(divisor, int) else list(divisor)
    if any(edge % number or edge < least for edge, number in zip(edges, divisors, strict=True)):
        wanted = divisors[0] if len(set(divisors)) == 1 else tuple(divisors)
        at_least = f", at least {least}" if least > 1 else ""
        raise ValueError(f"image edges {tuple(edges)} must be multiples of {wanted}{at_least}")
