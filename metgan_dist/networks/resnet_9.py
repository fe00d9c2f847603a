"""The generator of CycleGAN (Zhu et al., ICCV 2017, appendix 7.2): a residual network at a quarter of the resolution.

One channel in and out, nine blocks: 11,365,633 parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metgan_dist.networks.dimensions import scaled


def reflected(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """Convolution of stride 1 that keeps the size, reflecting the image at its border."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, padding_mode="reflect")


class ResidualBlock(nn.Module):
    """Two reflected 3x3 convolutions with InstanceNorm, ReLU between them, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            reflected(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(inplace=True),
            reflected(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to the same shape; no activation after the sum."""
        return x + self.branch(x)


class ResNet9(nn.Module):
    """7x7 convolution, two 3x3 of stride 2, residual blocks, two transposed 3x3 of stride 2, 7x7 convolution, tanh.

    InstanceNorm without parameters and ReLU follow each but the last. As released, the convolutions before a norm have
    a bias too, which the norm takes away again; they are kept so that weights and counts stay comparable.

    Args:
        in_channels, out_channels: channels of the image and of the output.
        width: multiplier of all channel numbers (at least 2 channels remain).
        blocks: residual blocks.
        base: channels of the first convolution at width 1; fourfold in the blocks.
    """

    divisor = 4

    def __init__(
        self, in_channels: int, out_channels: int, *, width: float = 1.0, blocks: int = 9, base: int = 64
    ) -> None:
        super().__init__()
        full, half, quarter = (scaled(base * factor, width) for factor in (1, 2, 4))
        layers: list[nn.Module] = [*_normalised(reflected(in_channels, full, 7))]
        for incoming, outgoing in ((full, half), (half, quarter)):
            layers += _normalised(nn.Conv2d(incoming, outgoing, kernel_size=3, stride=2, padding=1))
        layers += [ResidualBlock(quarter) for _ in range(blocks)]
        for incoming, outgoing in ((quarter, half), (half, full)):
            layers += _normalised(
                nn.ConvTranspose2d(incoming, outgoing, kernel_size=3, stride=2, padding=1, output_padding=1)
            )
        layers.append(reflected(full, out_channels, 7))
        self.model = nn.Sequential(*layers)

    def residual(self, image: Tensor) -> Tensor:
        """What the tanh is given: (N, out_channels, H, W), unbounded.

        Raises ValueError when an edge is no multiple of 4, or below 8, where there is nothing left to reflect.
        """
        if any(edge % self.divisor or edge < 2 * self.divisor for edge in image.shape[2:]):
            raise ValueError(f"image edges {tuple(image.shape[2:])} must be multiples of {self.divisor}, at least 8")
        return self.model(image)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W) in [-1, 1]; edges as for `residual`."""
        x = self.residual(image)
        # tanh in float32: near -1 and 1 bfloat16 has steps of 1/256, coarser than an 8-bit image.
        return torch.tanh(x.to(torch.promote_types(x.dtype, torch.float32)))


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, ...]:
    return convolution, nn.InstanceNorm2d(convolution.out_channels), nn.ReLU(inplace=True)
