"""The U-Net of papers 1 and 2: anatomy path of MetGen, and segmentor.

Six levels of two conv-BN-ReLU, a centre of one, six decoder stages of three. At one channel it has 35,371,441
parameters; with MetGen's label features merged into the decoder, 35,602,993.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from metgan_dist.networks.dimensions import layers_of, scaled

# Finest level first (MetGAN's release): the coarsest does not double, and the first is narrow.
PAPER_LEVELS = (24, 64, 128, 256, 512, 768)


def conv_bn_relu(in_channels: int, out_channels: int, dimensions: int) -> nn.Sequential:
    """3x3 convolution, BatchNorm (eps 1e-4), ReLU; the convolution has no bias because the norm would remove it."""
    layers = layers_of(dimensions)
    return nn.Sequential(
        layers.convolution(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        # The authors' eps, ten times torch's: it damps channels that hardly vary.
        layers.batch_norm(out_channels, eps=1e-4),
        nn.ReLU(inplace=True),
    )


class DecoderStage(nn.Module):
    """Linear upsampling to the skip's size, concatenation with the skip, three conv-BN-ReLU."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, dimensions: int) -> None:
        super().__init__()
        self.mode = layers_of(dimensions).linear
        self.convolutions = nn.Sequential(
            conv_bn_relu(in_channels + skip_channels, out_channels, dimensions),
            conv_bn_relu(out_channels, out_channels, dimensions),
            conv_bn_relu(out_channels, out_channels, dimensions),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`x` (N, C, h, w) and its `skip` (N, C_skip, H, W) to (N, out_channels, H, W); the same in 3D."""
        # Pixels keep their centres (align_corners=False), so features do not slide against the skip at the borders.
        x = functional.interpolate(x, size=skip.shape[2:], mode=self.mode, align_corners=False)
        return self.convolutions(torch.cat([x, skip], dim=1))


class UNet(nn.Module):
    """U-Net with as many max-poolings as `levels`; the last 1x1 convolution has no activation.

    Args:
        in_channels, out_channels: channels of the image and of the output.
        levels: channels of the encoder levels at width 1, finest first; the decoder mirrors them.
        width: multiplier of all channel numbers (at least 2 channels remain).
        dimensions: 2 for (N, C, H, W), 3 for (N, C, D, H, W).
        merge: extra channels that `forward` is given per resolution, as {level: channels}, level L standing for 1/2^L
            of the input's edge. They are concatenated to the decoder's features there, before the next stage.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        levels: Sequence[int] = PAPER_LEVELS,
        width: float = 1.0,
        dimensions: int = 2,
        merge: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        layers = layers_of(dimensions)
        self.merge = dict(merge or {})
        self.divisor = 2 ** len(levels)
        if not set(self.merge) <= set(range(len(levels))):
            raise ValueError(f"merge levels must be within 0..{len(levels) - 1}, not {sorted(self.merge)}")
        channels = [scaled(level, width) for level in levels]
        self.encoder = nn.ModuleList()
        incoming = in_channels
        for level in channels:
            self.encoder.append(
                nn.Sequential(conv_bn_relu(incoming, level, dimensions), conv_bn_relu(level, level, dimensions))
            )
            incoming = level
        self.pool = layers.max_pool(kernel_size=2)
        self.centre = conv_bn_relu(incoming, incoming, dimensions)
        # The stage that returns to level L hands on as many channels as level L - 1 has: 512, 256, 128, 64, 24, 24.
        self.decoder = nn.ModuleList()
        for level in reversed(range(len(channels))):
            outgoing = channels[max(level - 1, 0)]
            self.decoder.append(DecoderStage(incoming, channels[level], outgoing, dimensions))
            incoming = outgoing + self.merge.get(level, 0)
        self.output = layers.convolution(incoming, out_channels, kernel_size=1)

    def forward(self, image: Tensor, features: Mapping[int, Tensor] | None = None) -> Tensor:
        """Map (N, in_channels, ...) to (N, out_channels, ...) of the same size.

        `features[L]` has `merge[L]` channels at 1/2^L of the image's edge. Raises ValueError when an edge is no
        multiple of `divisor` or the features are not those of `merge`.
        """
        if any(edge % self.divisor for edge in image.shape[2:]):
            raise ValueError(f"image edges {tuple(image.shape[2:])} must be multiples of {self.divisor}")
        features = features or {}
        if set(features) != set(self.merge):
            raise ValueError(f"features for levels {sorted(self.merge)} expected, got {sorted(features)}")
        skips = []
        x = image
        for level in self.encoder:
            x = level(x)
            # Before the pooling: at the resolution to which the decoder comes back.
            skips.append(x)
            x = self.pool(x)
        x = self.centre(x)
        for level_number, stage in zip(reversed(range(len(skips))), self.decoder, strict=True):
            x = stage(x, skips[level_number])
            if level_number in self.merge:
                x = torch.cat([x, features[level_number].to(x.dtype)], dim=1)
        return self.output(x)
