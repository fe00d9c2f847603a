"""SPADE normalisation and the SPADE ResNet block (Park et al. 2019): SPADE's generator and MetGen's label path."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from metgan_dist.networks.dimensions import layers_of
from metgan_dist.networks.recompute import Recomputable
from metgan_dist.networks.spectral import spectral_convolution

HIDDEN = 128
# What features are normalised over, and what convolutions see beyond the border with it. BatchNorm does not go with
# `replicate`: of an empty label nothing would vary over the batch, and each norm would multiply gradients by 300.
Norm = Literal["batch", "pixel"]
PADDING: dict[Norm, Literal["zeros", "replicate"]] = {"batch": "zeros", "pixel": "replicate"}


def one_hot_label(label: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """A label map (N, H, W) of integers 0..classes-1 as (N, classes, H, W) of zeros and ones."""
    return functional.one_hot(label.long(), classes).movedim(-1, 1).to(dtype)


def resized(label: Tensor, features: Tensor) -> Tensor:
    """A label image (N, label_channels, any size) at the size of `features`, by nearest neighbour: still one-hot."""
    size = features.shape[2:]
    return label if label.shape[2:] == size else functional.interpolate(label, size=size, mode="nearest")


class PixelNorm(nn.Module):
    """Normalise each pixel of (N, C, ...) over its channels, without parameters (Li et al. 2019, positional norm)."""

    def forward(self, x: Tensor) -> Tensor:
        """Mean 0 and variance 1 over the channels of each pixel; same shape."""
        return functional.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)


class SpadeNorm(nn.Module):
    """Normalise, then scale and shift each pixel by what its label says.

    out = normalised * (1 + gamma(label)) + beta(label). The BatchNorm has no parameters and is a plain torch one, so
    that `SyncBatchNorm.convert_sync_batchnorm` finds it.

    Args:
        channels: channels of the features that are normalised.
        label_channels: channels of the label image (classes of a one-hot map).
        hidden: channels between label and gamma, beta.
        norm: `batch`, BatchNorm, with zeros beyond the border (Park et al.); `pixel`, PixelNorm, with the border's
            pixels beyond it.
    """

    def __init__(
        self, channels: int, label_channels: int, *, hidden: int = HIDDEN, dimensions: int = 2, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        layers = layers_of(dimensions)

        def convolution(incoming: int, outgoing: int) -> nn.Conv2d | nn.Conv3d:
            """3x3, from `incoming` to `outgoing` channels."""
            return layers.convolution(incoming, outgoing, kernel_size=3, padding=1, padding_mode=PADDING[norm])

        self.normalise = layers.batch_norm(channels, affine=False) if norm == "batch" else PixelNorm()
        self.shared = nn.Sequential(convolution(label_channels, hidden), nn.ReLU(inplace=True))
        self.gamma, self.beta = convolution(hidden, channels), convolution(hidden, channels)

    def modulation(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """gamma and beta, (N, channels, H, W) each, of a label image (N, label_channels, H, W)."""
        # One convolution for both: what is common to them is read once, and its gradient is made once.
        weight = torch.cat([self.gamma.weight, self.beta.weight])
        assert self.gamma.bias is not None
        assert self.beta.bias is not None
        bias = torch.cat([self.gamma.bias, self.beta.bias])
        gamma, beta = self.gamma._conv_forward(self.shared(label), weight, bias).chunk(2, dim=1)
        return gamma, beta

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """`x` (N, channels, H, W); `label` (N, label_channels, any size), resized to x by nearest neighbour."""
        gamma, beta = self.modulation(resized(label, x))
        # 1 + gamma: fresh convolutions give about 0, so training starts from the plain normalisation.
        return self.normalise(x) * (1 + gamma) + beta


class SpadeBlock(Recomputable):
    """Residual block of [SPADE, LeakyReLU 0.2, spectral-norm 3x3] twice, with a learned shortcut where widths differ.

    The middle width is min(in, out); the shortcut is [SPADE, spectral-norm 1x1 without bias] and has no activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        label_channels: int,
        *,
        hidden: int = HIDDEN,
        dimensions: int = 2,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)

        def spade(channels: int) -> SpadeNorm:
            """SPADE for features of `channels`, with the block's label and hidden channels."""
            return SpadeNorm(channels, label_channels, hidden=hidden, dimensions=dimensions, norm=norm)

        def convolution(incoming: int, outgoing: int) -> nn.Module:
            """3x3 with spectral norm, from `incoming` to `outgoing` channels."""
            return spectral_convolution(
                incoming, outgoing, kernel_size=3, padding=1, dimensions=dimensions, padding_mode=PADDING[norm]
            )

        # A norm for each convolution: features differ at both places, and so must gamma and beta.
        self.norm_0, self.norm_1 = spade(in_channels), spade(middle)
        self.conv_0, self.conv_1 = convolution(in_channels, middle), convolution(middle, out_channels)
        self.learned_shortcut = in_channels != out_channels
        if self.learned_shortcut:
            self.norm_shortcut = spade(in_channels)
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
