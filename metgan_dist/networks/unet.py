"""The U-Net of papers 1 and 2: anatomy path of MetGen, and segmentor.

Six levels of two conv-BN-ReLU, a centre of one, six decoder stages of three. At one channel it has 35,371,441
parameters; with MetGen's label features merged into the decoder, 35,602,993.

In 2D every edge halves six times, as in the papers. In 3D an axis halves as often as its edge allows, three to six
times: light-sheet crops are thin, and fewer levels would cost them what they see across the plane. The weights have the
same shapes however often an axis halves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from metgan_dist.networks.dimensions import check_edges, halvings, layers_of, scaled
from metgan_dist.networks.recompute import Recomputable

# Finest level first (MetGAN's release): the coarsest does not double, and the first is narrow.
PAPER_LEVELS = (24, 64, 128, 256, 512, 768)
MOST_HALVINGS = len(PAPER_LEVELS)
# So often an edge has to halve at least, by the number of dimensions.
LEAST_HALVINGS = {2: MOST_HALVINGS, 3: 3}


def halvings_of(edges: Sequence[int]) -> tuple[int, ...]:
    """How often the U-Net halves each edge of an image: six times in 2D, in 3D as often as it can, at most six."""
    return (MOST_HALVINGS,) * 2 if len(edges) == 2 else halvings(edges, MOST_HALVINGS)


def centre_values(edges: Sequence[int]) -> int:
    """Values of a channel at the U-Net's centre, of one image of these edges."""
    return math.prod(edge // 2**times for edge, times in zip(edges, halvings_of(edges), strict=True))


def conv_bn_relu(in_channels: int, out_channels: int, dimensions: int) -> nn.Sequential:
    """3x3 convolution, BatchNorm (eps 1e-4), ReLU; the convolution has no bias because the norm would remove it."""
    layers = layers_of(dimensions)
    return nn.Sequential(
        layers.convolution(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        # The authors' eps, ten times torch's: it damps channels that hardly vary.
        layers.batch_norm(out_channels, eps=1e-4),
        nn.ReLU(inplace=True),
    )


class Level(Recomputable, nn.Sequential):
    """An encoder level: two conv-BN-ReLU."""

    def __init__(self, in_channels: int, out_channels: int, dimensions: int) -> None:
        super().__init__(
            conv_bn_relu(in_channels, out_channels, dimensions), conv_bn_relu(out_channels, out_channels, dimensions)
        )


class DecoderStage(Recomputable):
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
        halvings: how often each axis halves; by default, at every level. An axis that halves less often does so at the
            finest levels.

    `divisor`: what edges must be multiples of, along each axis.
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
        halvings: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        layers = layers_of(dimensions)
        self.merge = dict(merge or {})
        often = tuple(halvings) if halvings else (len(levels),) * dimensions
        self.divisor = tuple(2**times for times in often)
        if not set(self.merge) <= set(range(len(levels))):
            raise ValueError(f"merge levels must be within 0..{len(levels) - 1}, not {sorted(self.merge)}")
        channels = [scaled(level, width) for level in levels]
        self.encoder = nn.ModuleList()
        incoming = in_channels
        for level in channels:
            self.encoder.append(Level(incoming, level, dimensions))
            incoming = level
        self.pools = nn.ModuleList(
            layers.max_pool(kernel_size=tuple(2 if level < times else 1 for times in often))
            for level in range(len(levels))
        )
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
        check_edges(image.shape[2:], self.divisor)
        features = features or {}
        if set(features) != set(self.merge):
            raise ValueError(f"features for levels {sorted(self.merge)} expected, got {sorted(features)}")
        skips = []
        x = image
        for level, pool in zip(self.encoder, self.pools, strict=True):
            x = level(x)
            # Before the pooling: at the resolution to which the decoder comes back.
            skips.append(x)
            x = pool(x)
        x = self.centre(x)
        for level_number, stage in zip(reversed(range(len(skips))), self.decoder, strict=True):
            x = stage(x, skips[level_number])
            if level_number in self.merge:
                x = torch.cat([x, features[level_number].to(x.dtype)], dim=1)
        return self.output(x)
