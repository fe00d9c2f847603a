"""SPADE normalisation and the SPADE ResNet block (methods.md section 5; here the blocks of MetGen's label path)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from metgan_dist.networks.dimensions import layers_of

HIDDEN = 128


class SpadeNorm(nn.Module):
    """Normalise over the batch, then scale and shift each pixel by what its label says.

    out = normalised * (1 + gamma(label)) + beta(label). The BatchNorm has no parameters and is a plain torch one, so
    that `SyncBatchNorm.convert_sync_batchnorm` finds it.

    Args:
        channels: channels of the features that are normalised.
        label_channels: channels of the label image (classes of a one-hot map).
        hidden: channels between label and gamma, beta.
    """

    def __init__(self, channels: int, label_channels: int, *, hidden: int = HIDDEN, dimensions: int = 2) -> None:
        super().__init__()
        layers = layers_of(dimensions)
        self.normalise = layers.batch_norm(channels, affine=False)
        self.shared = nn.Sequential(
            layers.convolution(label_channels, hidden, kernel_size=3, padding=1), nn.ReLU(inplace=True)
        )
        self.gamma = layers.convolution(hidden, channels, kernel_size=3, padding=1)
        self.beta = layers.convolution(hidden, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """`x` (N, channels, H, W); `label` (N, label_channels, any size), resized to x by nearest neighbour."""
        hidden = self.shared(functional.interpolate(label, size=x.shape[2:], mode="nearest"))
        return self.normalise(x) * (1 + self.gamma(hidden)) + self.beta(hidden)


class SpadeBlock(nn.Module):
    """Residual block of [SPADE, LeakyReLU 0.2, spectral-norm 3x3] twice, with a learned shortcut where widths differ.

    The middle width is min(in, out); the shortcut is [SPADE, spectral-norm 1x1 without bias] and has no activation.
    """

    def __init__(
        self, in_channels: int, out_channels: int, label_channels: int, *, hidden: int = HIDDEN, dimensions: int = 2
    ) -> None:
        super().__init__()
        layers = layers_of(dimensions)
        middle = min(in_channels, out_channels)
        self.convolve = layers.convolve

        def norm(channels: int) -> SpadeNorm:
            return SpadeNorm(channels, label_channels, hidden=hidden, dimensions=dimensions)

        self.norm_0, self.norm_1 = norm(in_channels), norm(middle)
        self.conv_0 = spectral_norm(layers.convolution(in_channels, middle, kernel_size=3, padding=1))
        self.conv_1 = spectral_norm(layers.convolution(middle, out_channels, kernel_size=3, padding=1))
        self.learned_shortcut = in_channels != out_channels
        if self.learned_shortcut:
            self.norm_shortcut = norm(in_channels)
            self.conv_shortcut = spectral_norm(layers.convolution(in_channels, out_channels, kernel_size=1, bias=False))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """(N, in_channels, H, W) and the one-hot label of any size to (N, out_channels, H, W)."""
        shortcut = x
        if self.learned_shortcut:
            shortcut = self._spectral(self.conv_shortcut, self.norm_shortcut(x, label), padding=0)
        y = self._spectral(self.conv_0, functional.leaky_relu(self.norm_0(x, label), 0.2), padding=1)
        y = self._spectral(self.conv_1, functional.leaky_relu(self.norm_1(y, label), 0.2), padding=1)
        return shortcut + y

    def _spectral(self, convolution: nn.Module, x: Tensor, *, padding: int) -> Tensor:
        """Apply a spectral-norm convolution whose weight is computed in float32 also under autocast.

        Autocast on GPUs takes the matrix-vector products of the power iteration to bfloat16, which leaves the norm two
        digits.
        """
        with torch.autocast(x.device.type, enabled=False):
            weight = cast(Tensor, convolution.weight)
        return self.convolve(x, weight, cast(Tensor | None, convolution.bias), padding=padding)
