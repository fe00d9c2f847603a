"""SEAN normalisation and the SEAN ResNet block: SPADE that also takes a style per region (Zhu et al. 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from metgan_dist.networks.recompute import Recomputable
from metgan_dist.networks.spade import HIDDEN, SpadeNorm, resized
from metgan_dist.networks.spectral import spectral_convolution


class ClassLinear(nn.Module):
    """A linear layer of its own for each class: y[n, k] = x[n, k] W[k] + b[k]."""

    def __init__(self, classes: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(classes, out_features))
        self.initialise()

    def initialise(self, gain: float = 1.0) -> None:
        """Draw each class's weights from Xavier's normal distribution times `gain`; biases 0."""
        in_features, out_features = self.weight.shape[1:]
        # By hand: of three axes torch takes the last for a kernel, and the first two for its fans.
        nn.init.normal_(self.weight, 0.0, gain * math.sqrt(2 / (in_features + out_features)))
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, classes, in_features) to (N, classes, out_features), one matrix product for all classes."""
        return torch.bmm(x.transpose(0, 1), self.weight).transpose(0, 1) + self.bias


class SeanNorm(SpadeNorm):
    """Normalise over the batch, then scale and shift each pixel by its label and by the style of its region.

    out = normalised(x + noise) * (1 + gamma) + beta with gamma = s gamma_style + (1 - s) gamma_label and s the sigmoid
    of a learned number that starts at 0; beta likewise. The label's gamma and beta are SPADE's. The style's come from
    the class's own linear layer and ReLU, broadcast into the region, by 3x3 convolutions. The noise is one N(0, 1) map
    per image times a learned number per channel that starts at 0; in eval mode it is left out, so that the same label
    and styles give the same image.

    Args:
        channels: channels of the features that are normalised.
        classes: label classes, background included.
        style: length of a style vector; 0 for SPADE with noise, as in the generator's last block.
        hidden: channels between label and its gamma, beta.
    """

    def __init__(self, channels: int, classes: int, style: int, *, hidden: int = HIDDEN) -> None:
        super().__init__(channels, classes, hidden=hidden)
        self.noise = nn.Parameter(torch.zeros(channels))
        self.styled = style > 0
        if self.styled:
            self.style = ClassLinear(classes, style, style)
            self.style_gamma = nn.Conv2d(style, channels, kernel_size=3, padding=1)
            self.style_beta = nn.Conv2d(style, channels, kernel_size=3, padding=1)
            self.blend_gamma = nn.Parameter(torch.zeros(()))
            self.blend_beta = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, label: Tensor, styles: Tensor | None = None) -> Tensor:
        """Normalise and modulate `x`.

        Args:
            x: (N, channels, H, W).
            label: one-hot (N, classes, any size), resized to x by nearest neighbour.
            styles: (N, classes, style); the style of a class without pixels has no influence. Ignored without style.
        """
        label = resized(label, x)
        gamma, beta = self.modulation(label)
        if self.styled:
            if styles is None:
                raise ValueError("styles are missing")
            regions = functional.relu(self.style(styles))
            gamma = _blend(convolve_regions(self.style_gamma, regions, label), gamma, self.blend_gamma)
            beta = _blend(convolve_regions(self.style_beta, regions, label), beta, self.blend_beta)
        return self.normalise(self._with_noise(x)) * (1 + gamma) + beta

    def _with_noise(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        noise = torch.randn(len(x), 1, *x.shape[2:], device=x.device, dtype=x.dtype)
        return x + noise * self.noise.to(x.dtype).view(-1, 1, 1)


def convolve_regions(convolution: nn.Conv2d, styles: Tensor, label: Tensor) -> Tensor:
    """A zero-padded 3x3 convolution of the image that has the vector `styles[n, k]` wherever the label is k.

    The image (N, S, H, W) is never made. Convolution is linear, so its kernel is applied to the K vectors first, and
    what comes out, a kernel per image from K to C channels, to the one-hot label: K / S of the multiplications, 1/256
    at two classes and S = 512.

    Args:
        convolution: S to C channels.
        styles: (N, K, S).
        label: one-hot (N, K, H, W).

    Returns:
        (N, C, H, W).
    """
    images, classes, height, width = label.shape
    # (N, K, S) x (C, S, 3, 3) -> (N, K, C, 3, 3)
    kernels = torch.tensordot(styles, convolution.weight, dims=([2], [1]))
    # (N, C, K, 3, 3) -> (N C, K, 3, 3): a group for each image, so one call applies to each its own kernel.
    kernels = kernels.transpose(1, 2).flatten(0, 1)
    flat = label.reshape(1, images * classes, height, width).to(kernels.dtype)
    bias = None if convolution.bias is None else convolution.bias.repeat(images)
    result = functional.conv2d(flat, kernels, bias, padding=1, groups=images)
    return result.view(images, -1, height, width)


def _blend(style: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    return label + torch.sigmoid(weight) * (style - label)


class SeanBlock(Recomputable):
    """SPADE's residual block with SEAN in place of each SPADE, the learned shortcut's included.

    [SEAN, LeakyReLU 0.2, spectral-norm 3x3] twice; middle width min(in, out); shortcut [SEAN, spectral-norm 1x1
    without bias] where widths differ. Each SEAN has linear layers of its own for the styles.
    """

    def __init__(self, in_channels: int, out_channels: int, classes: int, style: int, *, hidden: int = HIDDEN) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)

        def norm(channels: int) -> SeanNorm:
            """SEAN for features of `channels`, with the block's classes, style and hidden channels."""
            return SeanNorm(channels, classes, style, hidden=hidden)

        self.norm_0, self.norm_1 = norm(in_channels), norm(middle)
        self.conv_0 = spectral_convolution(in_channels, middle, kernel_size=3, padding=1)
        self.conv_1 = spectral_convolution(middle, out_channels, kernel_size=3, padding=1)
        self.learned_shortcut = in_channels != out_channels
        if self.learned_shortcut:
            self.norm_shortcut = norm(in_channels)
            self.conv_shortcut = spectral_convolution(in_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor, label: Tensor, styles: Tensor | None = None) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W); label and styles as for `SeanNorm`."""
        label = resized(label, x)  # once for all norms of the block
        shortcut = self.conv_shortcut(self.norm_shortcut(x, label, styles)) if self.learned_shortcut else x
        y = self.conv_0(functional.leaky_relu(self.norm_0(x, label, styles), 0.2))
        y = self.conv_1(functional.leaky_relu(self.norm_1(y, label, styles), 0.2))
        return shortcut + y
