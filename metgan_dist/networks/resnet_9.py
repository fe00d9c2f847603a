"""The generator of CycleGAN (Zhu et al., ICCV 2017, appendix 7.2): a residual network at a quarter of the resolution.

One channel in and out, nine blocks: 11,365,633 parameters. In 3D the kernels have a third axis of the same length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metgan_dist.networks.dimensions import check_edges, layers_of, scaled
from metgan_dist.networks.recompute import Recomputable


def reflected(in_channels: int, out_channels: int, kernel_size: int, dimensions: int = 2) -> nn.Conv2d | nn.Conv3d:
    """Convolution of stride 1 that keeps the size, reflecting the image at its border."""
    return layers_of(dimensions).convolution(
        in_channels, out_channels, kernel_size, padding=kernel_size // 2, padding_mode="reflect"
    )


class ResidualBlock(Recomputable):
    """Two reflected 3x3 convolutions with InstanceNorm, ReLU between them, added to the input."""

    def __init__(self, channels: int, dimensions: int = 2) -> None:
        super().__init__()
        norm = layers_of(dimensions).instance_norm
        self.branch = nn.Sequential(
            reflected(channels, channels, 3, dimensions),
            norm(channels),
            nn.ReLU(inplace=True),
            reflected(channels, channels, 3, dimensions),
            norm(channels),
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
        dimensions: 2 for (N, C, H, W), 3 for (N, C, D, H, W).
    """

    divisor = 4

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: float = 1.0,
        blocks: int = 9,
        base: int = 64,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        of = layers_of(dimensions)
        full, half, quarter = (scaled(base * factor, width) for factor in (1, 2, 4))

        def normalised(convolution: nn.Module, channels: int) -> tuple[nn.Module, ...]:
            """A convolution to so many channels, InstanceNorm, ReLU."""
            return convolution, of.instance_norm(channels), nn.ReLU(inplace=True)

        layers: list[nn.Module] = [*normalised(reflected(in_channels, full, 7, dimensions), full)]
        for incoming, outgoing in ((full, half), (half, quarter)):
            layers += normalised(of.convolution(incoming, outgoing, kernel_size=3, stride=2, padding=1), outgoing)
        layers += [ResidualBlock(quarter, dimensions) for _ in range(blocks)]
        for incoming, outgoing in ((quarter, half), (half, full)):
            up = of.transposed(incoming, outgoing, kernel_size=3, stride=2, padding=1, output_padding=1)
            layers += normalised(up, outgoing)
        layers.append(reflected(full, out_channels, 7, dimensions))
        self.model = nn.Sequential(*layers)

    def residual(self, image: Tensor) -> Tensor:
        """What the tanh is given: (N, out_channels, H, W), unbounded.

        Raises ValueError when an edge is no multiple of 4, or below 8, where there is nothing left to reflect.
        """
        check_edges(image.shape[2:], self.divisor, 2 * self.divisor)
        return self.model(image)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W) in [-1, 1]; edges as for `residual`."""
        x = self.residual(image)
        # tanh in float32: near -1 and 1 bfloat16 has steps of 1/256, coarser than an 8-bit image.
        return torch.tanh(x.to(torch.promote_types(x.dtype, torch.float32)))
