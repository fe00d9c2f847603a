"""The U-Net of paper 4 (Platscher et al. 2020, appendix A.1), which segments lesions in whole volumes.

Levels of 16, 32, 64 and 128 channels, a bottleneck of 256, dropout of 2 %. Down: two convolutions with ReLU and
dropout, max-pooling. Up: transposed convolution, BatchNorm, ReLU, the skip beside it, two convolutions with ReLU and
dropout. At one channel and two classes in 3D it has 5,646,242 parameters, where transposed convolutions have kernels of
2 and the last one of 3. The appendix gives all convolutions kernels of 3 and 5.6 million parameters: with 3 the
transposed ones alone would bring it to 6.47, and with 1 in the last it would have 5,645,410.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metgan_dist.networks.dimensions import check_edges, layers_of, scaled
from metgan_dist.networks.initialise import initialise_he
from metgan_dist.networks.recompute import Recomputable

LEVELS, BOTTLENECK, DROPOUT = (16, 32, 64, 128), 256, 0.02
DIVISOR = 2 ** len(LEVELS)


class Convolutions(Recomputable, nn.Sequential):
    """Twice a 3x3 convolution, ReLU and dropout."""

    def __init__(self, in_channels: int, out_channels: int, dimensions: int) -> None:
        layers: list[nn.Module] = []
        for incoming in (in_channels, out_channels):
            convolution = layers_of(dimensions).convolution(incoming, out_channels, kernel_size=3, padding=1)
            layers += [convolution, nn.ReLU(inplace=True), nn.Dropout(DROPOUT)]
        super().__init__(*layers)


class UNetStroke(nn.Module):
    """Logits of every class, background included, of images whose edges are multiples of 16.

    Args:
        in_channels, out_channels: channels of the image, and classes.
        width: multiplier of all channel numbers.
        dimensions: 2 for (N, C, H, W), 3, as published, for (N, C, D, H, W).
    """

    divisor = DIVISOR

    def __init__(self, in_channels: int, out_channels: int, *, width: float = 1.0, dimensions: int = 3) -> None:
        super().__init__()
        layers = layers_of(dimensions)
        channels = [scaled(paper, width) for paper in LEVELS]
        bottleneck = scaled(BOTTLENECK, width)
        self.pool = layers.max_pool(2)
        self.down, self.up, self.merged = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        incoming = in_channels
        for outgoing in channels:
            self.down.append(Convolutions(incoming, outgoing, dimensions))
            incoming = outgoing
        self.bottleneck = Convolutions(incoming, bottleneck, dimensions)
        incoming = bottleneck
        for outgoing in reversed(channels):
            enlarged = layers.transposed(incoming, outgoing, kernel_size=2, stride=2)
            self.up.append(nn.Sequential(enlarged, layers.batch_norm(outgoing), nn.ReLU(inplace=True)))
            self.merged.append(Convolutions(2 * outgoing, outgoing, dimensions))
            incoming = outgoing
        self.output = layers.convolution(incoming, out_channels, kernel_size=3, padding=1)
        initialise_he(self)

    def forward(self, image: Tensor) -> Tensor:
        """(N, in_channels, [D,] H, W) to logits (N, out_channels, [D,] H, W), before a softmax.

        Raises ValueError when an edge is no multiple of `divisor`.
        """
        check_edges(image.shape[2:], self.divisor)
        skips, x = [], image
        for level in self.down:
            x = level(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottleneck(x)
        for up, merged in zip(self.up, self.merged, strict=True):
            x = merged(torch.cat([up(x), skips.pop()], dim=1))
        return self.output(x)
