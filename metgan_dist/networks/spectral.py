"""Convolutions with spectral norm, computed in float32 whatever the precision around them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from metgan_dist.networks.dimensions import layers_of

if TYPE_CHECKING:
    _Convolution = nn.Conv2d
else:
    _Convolution = object


class _Float32Weight(_Convolution):
    """A convolution whose weight is worked out in float32 also under autocast.

    Autocast on GPUs takes the matrix-vector products of the power iteration to bfloat16, which leaves the norm two
    digits. The convolution itself stays in the precision around it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As torch's, with the weight taken outside autocast."""
        with torch.autocast(x.device.type, enabled=False):
            weight = self.weight
        return self._conv_forward(x, weight, self.bias)


class SpectralConv2d(_Float32Weight, nn.Conv2d):
    """Conv2d for `spectral_norm`."""


class SpectralConv3d(_Float32Weight, nn.Conv3d):
    """Conv3d for `spectral_norm`."""


_CONVOLUTIONS = {2: SpectralConv2d, 3: SpectralConv3d}


def spectral_convolution(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
    dimensions: int = 2,
    padding_mode: Literal["zeros", "replicate"] = "zeros",
) -> nn.Module:
    """A convolution whose weight is divided by its largest singular value.

    The weight counts as the matrix (out_channels, in_channels * kernel). One power iteration per forward pass in
    training mode keeps up with it; in eval mode the estimate stands still. May be called several times before one
    backward pass.
    """
    layers_of(dimensions)  # refuses other dimensions
    convolution = _CONVOLUTIONS[dimensions](
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        bias=bias,
        padding_mode=padding_mode,
    )
    return spectral_norm(convolution)


@contextmanager
def raw_weight(layer: nn.Module) -> Iterator[None]:
    """Inside, `layer.weight` is the parameter itself, to be filled with other values; a plain layer is left as it is.

    The spectral norm is taken off before and put back after: its power iteration starts from the weight at hand, and
    one that starts from another weight misjudges the norm for the first steps.
    """
    normalised = parametrize.is_parametrized(layer, "weight")
    if normalised:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    yield
    if normalised:
        spectral_norm(layer)
