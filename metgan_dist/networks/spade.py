"""SPADE normalisation and the SPADE ResNet block (Park et al. 2019): SPADE's generator and MetGen's label path."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from metgan_dist.networks.dimensions import layers_of
from metgan_dist.networks.spectral import spectral_convolution

HIDDEN = 128


def one_hot_label(label: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """A label map (N, H, W) of integers 0..classes-1 as (N, classes, H, W) of zeros and ones."""
    return functional.one_hot(label.long(), classes).movedim(-1, 1).to(dtype)


def resized(label: Tensor, features: Tensor) -> Tensor:
    """A label image (N, label_channels, any size) at the size of `features`, by nearest neighbour: still one-hot."""
    size = features.shape[2:]
    return label if label.shape[2:] == size else functional.interpolate(label, size=size, mode="nearest")


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
        self.convolve = layers.convolve
        self.normalise = layers.batch_norm(channels, affine=False)
        self.shared = nn.Sequential(
            layers.convolution(label_channels, hidden, kernel_size=3, padding=1), nn.ReLU(inplace=True)
        )
        self.gamma = layers.convolution(hidden, channels, kernel_size=3, padding=1)
        self.beta = layers.convolution(hidden, channels, kernel_size=3, padding=1)

    def modulation(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """gamma and beta, (N, channels, H, W) each, of a label image (N, label_channels, H, W)."""
        # One convolution for both: what is common to them is read once, and its gradient is made once.
        weight = torch.cat([self.gamma.weight, self.beta.weight])
        assert self.gamma.bias is not None
        assert self.beta.bias is not None
        bias = torch.cat([self.gamma.bias, self.beta.bias])
        gamma, beta = self.convolve(self.shared(label), weight, bias, padding=1).chunk(2, dim=1)
        return gamma, beta

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """`x` (N, channels, H, W); `label` (N, label_channels, any size), resized to x by nearest neighbour."""
        gamma, beta = self.modulation(resized(label, x))
        # 1 + gamma: fresh convolutions give about 0, so training starts from the plain normalisation.
        return self.normalise(x) * (1 + gamma) + beta


class SpadeBlock(nn.Module):
    """Residual block of [SPADE, LeakyReLU 0.2, spectral-norm 3x3] twice, with a learned shortcut where widths differ.

    The middle width is min(in, out); the shortcut is [SPADE, spectral-norm 1x1 without bias] and has no activation.
    """

    def __init__(
        self, in_channels: int, out_channels: int, label_channels: int, *, hidden: int = HIDDEN, dimensions: int = 2
    ) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)

        def norm(channels: int) -> SpadeNorm:
            """SPADE for features of `channels`, with the block's label and hidden channels."""
            return SpadeNorm(channels, label_channels, hidden=hidden, dimensions=dimensions)

        # A norm for each convolution: features differ at both places, and so must gamma and beta.
        self.norm_0, self.norm_1 = norm(in_channels), norm(middle)
        self.conv_0 = spectral_convolution(in_channels, middle, kernel_size=3, padding=1, dimensions=dimensions)
        self.conv_1 = spectral_convolution(middle, out_channels, kernel_size=3, padding=1, dimensions=dimensions)
        self.learned_shortcut = in_channels != out_channels
        if self.learned_shortcut:
            self.norm_shortcut = norm(in_channels)
            self.conv_shortcut = spectral_convolution(
                in_channels, out_channels, kernel_size=1, bias=False, dimensions=dimensions
            )

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """(N, in_channels, H, W) and the one-hot label of any size to (N, out_channels, H, W)."""
        label = resized(label, x)  # once for all norms of the block
        shortcut = self.conv_shortcut(self.norm_shortcut(x, label)) if self.learned_shortcut else x
        y = self.conv_0(functional.leaky_relu(self.norm_0(x, label), 0.2))
        y = self.conv_1(functional.leaky_relu(self.norm_1(y, label), 0.2))
        return shortcut + y
