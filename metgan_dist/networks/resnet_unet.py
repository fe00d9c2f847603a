"""The ResNet34-U-Net: RedGAN's third player (Qasim et al. 2020). In 2D alone, as its encoder is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from metgan_dist.networks.dimensions import check_edges, scaled
from metgan_dist.networks.recompute import Recomputable

# ResNet34: channels and number of residual blocks of its four stages, after a stem of STEM channels.
STEM = 64
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
DECODER = (256, 128, 64, 32, 16)


class ResNetUNet(nn.Module):
    """U-Net with the encoder of ResNet34, untrained, for images of any number of channels.

    The encoder is torchvision's resnet34 without its classifier: 7x7 stem of stride 2, max-pooling, four stages of
    residual blocks. Each decoder stage doubles the edge by nearest neighbour, concatenates the encoder's features of
    that edge (none at full resolution) and applies conv-BN-ReLU twice, to 256, 128, 64, 32, 16 channels; a 3x3
    convolution ends it. At three channels in and one out it has 24,436,369 parameters.

    Args:
        in_channels, out_channels: channels of the image and of the output.
        width: multiplier of all channel numbers.

    `divisor` (32): image edges must be multiples of it.
    """

    divisor = 32

    def __init__(self, in_channels: int = 1, out_channels: int = 1, *, width: float = 1.0) -> None:
        super().__init__()
        stem = scaled(STEM, width)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem, kernel_size=7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        skips = [stem]
        for number, (channels, blocks) in enumerate(STAGES):
            # The pooling before the first stage has halved the edge already.
            stride = 1 if number == 0 else 2
            self.stages.append(_residual_stage(skips[-1], scaled(channels, width), blocks, stride))
            skips.append(scaled(channels, width))
        self.decoder = nn.ModuleList()
        incoming = skips.pop()
        for channels in DECODER:
            outgoing = scaled(channels, width)
            self.decoder.append(_two_convolutions(incoming + (skips.pop() if skips else 0), outgoing))
            incoming = outgoing
        self.output = nn.Conv2d(incoming, out_channels, kernel_size=3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        """Draw convolution weights from He's normal distribution over their outputs, as ResNets are."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, out_channels, H, W) of `image` (N, in_channels, H, W).

        Raises ValueError when an edge is no multiple of `divisor`.
        """
        check_edges(image.shape[2:], self.divisor)
        skips = [self.stem(image)]
        x = self.pool(skips[0])
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        x = skips.pop()
        for convolutions in self.decoder:
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            # The last doubling, to full resolution, has no skip: the stem's stride has left none of that size.
            x = convolutions(torch.cat([x, skips.pop()], dim=1) if skips else x)
        return self.output(x)


class Stage(Recomputable, nn.Sequential):
    """Modules one after the other, of the encoder or of the decoder."""


def _residual_stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> Stage:
    """torchvision's residual blocks; the first changes channels and edge, its shortcut then is a 1x1 convolution."""
    from torchvision.models.resnet import (
        BasicBlock,  # loads torch's compiler: not in each process that knows of methods
    )

    shortcut = None
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )
    first = BasicBlock(in_channels, out_channels, stride, shortcut)
    return Stage(first, *(BasicBlock(out_channels, out_channels) for _ in range(blocks - 1)))


def _two_convolutions(in_channels: int, out_channels: int) -> Stage:
    return Stage(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
