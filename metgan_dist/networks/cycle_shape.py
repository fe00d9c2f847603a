"""The networks of cycle- and shape-consistent translation (Zhang et al., CVPR 2018, section 4.1), in 2D and 3D.

Generator and segmentor are U-Nets that halve a volume three times, with two 3x3x3 convolutions at each resolution, and
enlarge it again by nearest neighbours: transposed convolutions lay 2^3 unevenly overlapping kernels over a voxel, which
shows as a checkerboard. The discriminator is `PatchGAN` with `dimensions=3`.

The paper gives no channel numbers. Here it is 16 at full resolution, doubled with each halving, as in paper 4's
segmentation of volumes; `width` 2 makes it 32, for about twice the memory (benchmarks/cardiac_step.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from metgan_dist.networks.dimensions import layers_of, scaled
from metgan_dist.networks.padding import cropped, padded
from metgan_dist.networks.recompute import Recomputable

BASE, HALVINGS = 16, 3


class EncoderLevel(Recomputable, nn.Sequential):
    """What halves a volume, but at the first level, and its convolutions."""


class DecoderLevel(Recomputable):
    """What comes from below enlarged to the skip's size, beside the skip, through convolutions."""

    def __init__(self, enlarge: nn.Module, convolutions: nn.Module) -> None:
        super().__init__()
        self.enlarge, self.convolutions = enlarge, convolutions

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`x` (N, C, h, ...) and `skip` (N, C', 2h, ...) to (N, C', 2h, ...)."""
        return self.convolutions(torch.cat([self.enlarge(x), skip], dim=1))


class SkipUNet(nn.Module):
    """Encoder, decoder and their long skips; edges of any size, padded to multiples of 8 inside and cropped again.

    Args:
        encoder: levels from fine to coarse, each but the first halving its input.
        decoder: levels from coarse to fine, each enlarging its first input to the size of its second, the skip.
        output: the last convolution, at full resolution.
    """

    divisor = 1

    def __init__(self, encoder: Sequence[EncoderLevel], decoder: Sequence[DecoderLevel], output: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder, self.output = nn.ModuleList(encoder), nn.ModuleList(decoder), output

    def logits(self, image: Tensor) -> Tensor:
        """(N, in_channels, ...) to (N, out_channels, ...) of the same size, unbounded.

        Raises ValueError for edges below 4, which cannot be reflected to a multiple of 8.
        """
        x, skips = padded(image, 2 ** (len(self.encoder) - 1)), []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        for level, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            x = level(x, skip)
        return cropped(self.output(x), image.shape[2:])


class SkipGenerator(SkipUNet):
    """A generator: convolutions of stride 2 down, nearest enlargement and a convolution up, tanh.

    InstanceNorm without parameters and ReLU follow each convolution but the last. 16, 32, 64 and 128 channels; in 3D
    2,185,057 parameters at one channel, in 2D 728,353.

    Args:
        in_channels, out_channels: channels of the image and of what is made of it.
        width: multiplier of all channel numbers (at least 2 channels remain).
        dimensions: 2 for (N, C, H, W), 3 for (N, C, D, H, W).
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 1, *, width: float = 1.0, dimensions: int = 3) -> None:
        def block(incoming: int, outgoing: int, stride: int = 1) -> nn.Module:
            return _normalised(incoming, outgoing, stride, dimensions)

        channels = _channels(width, least=2)
        encoder = [EncoderLevel(block(in_channels, channels[0]), block(channels[0], channels[0]))]
        decoder: list[DecoderLevel] = []
        for fine, coarse in pairwise(channels):
            encoder.append(EncoderLevel(block(fine, coarse, 2), block(coarse, coarse), block(coarse, coarse)))
            enlarge = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), block(coarse, fine))
            decoder.append(DecoderLevel(enlarge, nn.Sequential(block(2 * fine, fine), block(fine, fine))))
        output = layers_of(dimensions).convolution(channels[0], out_channels, kernel_size=3, padding=1)
        super().__init__(encoder, decoder[::-1], output)

    def forward(self, image: Tensor) -> Tensor:
        """(N, in_channels, ...) to (N, out_channels, ...) of the same size, in [-1, 1]; edges from 9 on."""
        x = self.logits(image)
        # tanh in float32: near -1 and 1 bfloat16 has steps of 1/256, coarser than an 8-bit image.
        return torch.tanh(x.to(torch.promote_types(x.dtype, torch.float32)))


class SkipSegmentor(SkipUNet):
    """A segmentor: max-pooling down, nearest enlargement up, no norm.

    ReLU follows each convolution but the last, of kernel 1. 16, 32, 64 and 128 channels; in 3D 1,459,670 parameters at
    one channel and six classes, in 2D 487,094.

    Args:
        in_channels: channels of the image.
        classes: label classes, background included.
        width: multiplier of all channel numbers (at least 4 channels remain).
        dimensions: 2 for (N, C, H, W), 3 for (N, C, D, H, W).
    """

    def __init__(self, in_channels: int = 1, classes: int = 2, *, width: float = 1.0, dimensions: int = 3) -> None:
        def block(incoming: int, outgoing: int) -> nn.Module:
            return _rectified(incoming, outgoing, dimensions)

        layers = layers_of(dimensions)
        # Without a norm a level of two channels may be born dead: both negative everywhere.
        channels = _channels(width, least=4)
        encoder = [EncoderLevel(block(in_channels, channels[0]), block(channels[0], channels[0]))]
        decoder: list[DecoderLevel] = []
        for fine, coarse in pairwise(channels):
            encoder.append(EncoderLevel(layers.max_pool(2), block(fine, coarse), block(coarse, coarse)))
            enlarge = nn.Upsample(scale_factor=2, mode="nearest")
            decoder.append(DecoderLevel(enlarge, nn.Sequential(block(coarse + fine, fine), block(fine, fine))))
        super().__init__(encoder, decoder[::-1], layers.convolution(channels[0], classes, kernel_size=1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, classes, ...) of images (N, in_channels, ...) in [-1, 1], of the same size; edges from 4 on."""
        return self.logits(image)


def _channels(width: float, least: int) -> list[int]:
    return [scaled(BASE * 2**level, width, least) for level in range(HALVINGS + 1)]


def _normalised(incoming: int, outgoing: int, stride: int, dimensions: int) -> nn.Sequential:
    """3^n convolution, InstanceNorm, ReLU; no bias, which the norm would take away."""
    layers = layers_of(dimensions)
    return nn.Sequential(
        layers.convolution(incoming, outgoing, kernel_size=3, stride=stride, padding=1, bias=False),
        layers.instance_norm(outgoing),
        nn.ReLU(inplace=True),
    )


def _rectified(incoming: int, outgoing: int, dimensions: int) -> nn.Sequential:
    """3^n convolution and ReLU."""
    convolution = layers_of(dimensions).convolution(incoming, outgoing, kernel_size=3, padding=1)
    return nn.Sequential(convolution, nn.ReLU(inplace=True))
