"""Multi-scale discriminator of SPADE, SEAN and RedGAN: PatchGANs on an image pyramid that also give their features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metgan_dist.networks.dimensions import layers_of, scaled
from metgan_dist.networks.spectral import spectral_convolution

# Widest layer at width 1.
WIDEST = 512
_POOLS = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


class PatchFeatures(nn.Module):
    """One scale: a PatchGAN of stages, each stage's output being a feature.

    The first stage is a plain convolution and LeakyReLU 0.2; the others have spectral norm, InstanceNorm without
    parameters (so no bias) and LeakyReLU 0.2; the last gives the logits by a plain convolution. All kernels are 4x4
    with padding 2, so that features of two pixels or more never shrink to one, which has no variance.
    """

    def __init__(self, channels: int, widths: Sequence[int], strides: Sequence[int], dimensions: int) -> None:
        super().__init__()
        layers = layers_of(dimensions)
        self.stages = nn.ModuleList()
        incoming = channels
        for depth, (outgoing, stride) in enumerate(zip(widths, strides, strict=True)):
            if depth == 0:
                stage: list[nn.Module] = [
                    layers.convolution(incoming, outgoing, kernel_size=4, stride=stride, padding=2)
                ]
            else:
                convolution = spectral_convolution(
                    incoming, outgoing, kernel_size=4, stride=stride, padding=2, bias=False, dimensions=dimensions
                )
                stage = [convolution, layers.instance_norm(outgoing)]
            # A stage ends with its activation: features are compared as the next stage sees them.
            self.stages.append(nn.Sequential(*stage, nn.LeakyReLU(0.2, inplace=True)))
            incoming = outgoing
        self.stages.append(layers.convolution(incoming, 1, kernel_size=4, padding=2))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Each stage's output (N, C, h, w) for `x` (N, channels, H, W): features, and last the logits, with C = 1."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class MultiscaleDiscriminator(nn.Module):
    """The same PatchGAN on the image and on its halves, quarters, ..., with weights of their own.

    `layers` counts the convolutions before the one that gives the logits. All have stride 2 but the last of them, whose
    stride is `last_stride`; the logits have stride 1. At width 1 they have 64, 128, 256, 512, 512, ... channels.

    ======  ======  ===========  ==============================  ====================================
    method  layers  last_stride  channels (stride)               one logit sees, at the first scale
    ======  ======  ===========  ==============================  ====================================
    SPADE   4       1            64 (2), 128 (2), 256 (2), 512   70 x 70 pixels
    -       3       1            64 (2), 128 (2), 256            34 x 34 pixels
    RedGAN  3       2            64 (2), 128 (2), 256 (2)        46 x 46 pixels
    ======  ======  ===========  ==============================  ====================================

    Scale s works on the input after s average poolings of 3x3 with stride 2, which do not count the padding.

    Args:
        channels: channels of the image that is judged.
        condition_channels: channels of the condition that comes with it; 0 for none.
        scales: PatchGANs.
        layers, last_stride: see above.
        base: channels of the first convolution at width 1; doubled per layer up to 512.
    """

    def __init__(
        self,
        channels: int,
        *,
        condition_channels: int = 0,
        scales: int = 2,
        layers: int = 4,
        last_stride: int = 1,
        base: int = 64,
        width: float = 1.0,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        self.condition_channels = condition_channels
        widths = [scaled(min(base * 2**depth, WIDEST), width) for depth in range(layers)]
        strides = [2] * (layers - 1) + [last_stride]
        self.scales = nn.ModuleList(
            PatchFeatures(channels + condition_channels, widths, strides, dimensions) for _ in range(scales)
        )
        # Counting the padding would pull the rim towards grey, which the discriminator could learn to look for.
        self.shrink = _POOLS[dimensions](kernel_size=3, stride=2, padding=1, count_include_pad=False)

    def forward(self, image: Tensor, condition: Tensor | None = None) -> list[list[Tensor]]:
        """Per scale, full size first, the features of every layer (N, c, h, w) and last the logits (N, 1, h, w).

        Logits are high for real; no sigmoid. The condition comes before the image. Raises ValueError when a condition
        is missing or not expected.
        """
        given = 0 if condition is None else condition.shape[1]
        if given != self.condition_channels:
            raise ValueError(f"a condition of {self.condition_channels} channels expected, got {given}")
        x = image if condition is None else torch.cat([condition.to(image.dtype), image], dim=1)
        outputs = []
        for number, scale in enumerate(self.scales):
            if number:
                x = self.shrink(x)
            outputs.append(scale(x))
        return outputs
