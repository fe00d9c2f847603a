"""The networks of SIFA (Chen et al., TMI 2020): one encoder whose features serve translation and segmentation alike.

Channel numbers, depths and the position of the norms are those of the authors' public release, in 2D.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from metgan_dist.networks.dimensions import check_edges, scaled
from metgan_dist.networks.patchgan import PatchGAN
from metgan_dist.networks.recompute import Recomputable
from metgan_dist.networks.resnet_9 import ResNet9

Norm = type[nn.BatchNorm2d] | type[nn.InstanceNorm2d]


class Features(NamedTuple):
    """What the encoder sees in an image, at an eighth of its resolution: after all blocks, and before the dilated ones.

    Both are (N, `Encoder.features`, H/8, W/8).
    """

    deep: Tensor
    shallow: Tensor


class ResidualBlock(Recomputable):
    """Two 3x3 convolutions with norms, added to the input, ReLU after the sum.

    Where the block widens, the input is padded with channels of zeros, half of them before and half after its own, so
    that the shortcut has no parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: Norm, dilation: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *convolution(in_channels, out_channels, 3, norm, dilation),
            # Without its ReLU, which follows the sum.
            *convolution(out_channels, out_channels, 3, norm, dilation)[:2],
        )
        before = (out_channels - in_channels) // 2
        self.padding = (0, 0, 0, 0, before, out_channels - in_channels - before)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W)."""
        shortcut = functional.pad(x, self.padding) if any(self.padding) else x
        return functional.relu(self.branch(x) + shortcut)


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, norm: Norm, dilation: int = 1
) -> list[nn.Module]:
    """Convolution that keeps the size, norm, ReLU; without a bias, which the norm would remove."""
    padding = dilation * (kernel_size // 2)
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False)
    return [layer, norm(out_channels), nn.ReLU(inplace=True)]


class Encoder(nn.Module):
    """Shared encoder: residual blocks from 16 to 512 channels with three max-poolings, then two dilated by 2.

    `features`: channels of both outputs. `divisor` (8): image edges must be multiples of it.
    """

    divisor = 8

    def __init__(self, channels: int = 1, *, width: float = 1.0) -> None:
        super().__init__()
        norm = nn.BatchNorm2d
        block = partial(ResidualBlock, norm=norm)
        c16, c32, c64, c128, c256, c512 = (scaled(16 * 2**level, width) for level in range(6))
        self.shallow = nn.Sequential(
            *(*convolution(channels, c16, 7, norm), block(c16, c16), nn.MaxPool2d(2)),
            *(block(c16, c32), nn.MaxPool2d(2)),
            *(block(c32, c64), block(c64, c64), nn.MaxPool2d(2)),
            *(block(c64, c128), block(c128, c128)),
            *(block(c128, c256), block(c256, c256), block(c256, c256), block(c256, c256)),
            *(block(c256, c512), block(c512, c512)),
        )
        self.deep = nn.Sequential(
            *(block(c512, c512, dilation=2), block(c512, c512, dilation=2)),
            *(*convolution(c512, c512, 3, norm), *convolution(c512, c512, 3, norm)),
        )
        self.features = c512

    def forward(self, image: Tensor) -> Features:
        """Features of an image (N, channels, H, W); raises ValueError when an edge is no multiple of `divisor`."""
        check_edges(image.shape[2:], self.divisor)
        shallow = self.shallow(image)
        return Features(self.deep(shallow), shallow)


class SegmentationHead(nn.Module):
    """1x1 convolution from one of the encoder's features to a logit per class, bilinear to the image's size."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(features, classes, kernel_size=1)

    def forward(self, features: Tensor, size: torch.Size) -> Tensor:
        """Logits (N, classes, H, W), before a softmax, from features (N, features, H/8, W/8); `size` is (H, W)."""
        return functional.interpolate(self.classifier(features), size=size, mode="bilinear", align_corners=False)


class Decoder(nn.Module):
    """From the deep features back to an image in the style of the other domain, as a change to the encoded image."""

    def __init__(self, features: int, channels: int = 1, *, width: float = 1.0) -> None:
        super().__init__()
        norm = nn.InstanceNorm2d
        c32, c64, c128 = (scaled(base, width) for base in (32, 64, 128))
        self.model = nn.Sequential(
            *convolution(features, c128, 3, norm),
            *(ResidualBlock(c128, c128, norm) for _ in range(4)),
            *_doubling(c128, c64),
            *_doubling(c64, c64),
            *_doubling(c64, c32),
            nn.Conv2d(c32, channels, kernel_size=7, padding=3),
        )

    def forward(self, deep: Tensor, image: Tensor) -> Tensor:
        """tanh(image + residual), (N, channels, H, W) in [-1, 1], from the deep features of `image`."""
        return _changed(image, self.model(deep))


class ResidualResNet9(nn.Module):
    """The generator g_A: CycleGAN's ResNet-9 at width 32, whose output is a change to the image."""

    def __init__(self, channels: int = 1, *, width: float = 1.0, blocks: int = 9) -> None:
        super().__init__()
        self.resnet = ResNet9(channels, channels, width=width, blocks=blocks, base=32)

    def forward(self, image: Tensor) -> Tensor:
        """tanh(image + residual), (N, channels, H, W) in [-1, 1]; edges must be multiples of 4."""
        return _changed(image, self.resnet.residual(image))


class AuxiliaryPatchGAN(nn.Module):
    """70x70 PatchGAN that answers two questions about each patch of an anatomy-like image.

    Is it a real anatomy image? And, as the auxiliary task: was it made from a translated anatomy image (the cycle) and
    not from a tumour image? What tells those two apart can only come from the encoder's features.
    """

    def __init__(self, channels: int = 1, *, width: float = 1.0) -> None:
        super().__init__()
        self.patchgan = PatchGAN(channels, width=width)
        last = self.patchgan.model[-1]
        assert isinstance(last, nn.Conv2d)
        self.patchgan.model[-1] = nn.Conv2d(last.in_channels, 2, kernel_size=4, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, 1, h, w) of both questions for `image` (N, channels, H, W), high for yes."""
        real, cycled = self.patchgan(image).split(1, dim=1)
        return real, cycled


def _doubling(in_channels: int, out_channels: int) -> list[nn.Module]:
    # With a kernel of 3, padding and output padding of 1 make the edge exactly twice as long.
    layer = nn.ConvTranspose2d(
        in_channels, out_channels, kernel_size=3, stride=2, padding=1, output_padding=1, bias=False
    )
    return [layer, nn.InstanceNorm2d(out_channels), nn.ReLU(inplace=True)]


def _changed(image: Tensor, residual: Tensor) -> Tensor:
    # In float32: near -1 and 1 bfloat16 has steps of 1/256, coarser than an 8-bit image.
    precise = torch.promote_types(residual.dtype, torch.float32)
    return torch.tanh(image.to(precise) + residual.to(precise))
