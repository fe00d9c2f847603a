"""MONAI's DynUNet laid out as nnU-Net lays out its U-Net (Isensee et al., Nature Methods 2021).

Two 3x3 convolutions a level with InstanceNorm and LeakyReLU 0.01, strided convolutions down, transposed ones up, 32
channels at full resolution doubling to at most 512 (320 in 3D). An axis is halved until its features would have fewer
than 4 pixels, so tiles of 128 pixels get five levels below the first. In training, logits of the coarser decoder levels
are given too (deep supervision), the coarsest left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metgan_dist.networks.dimensions import check_edges, scaled

FIRST_CHANNELS, LEAST_EDGE, LEAST_LEVELS, LEVELS_AT_MOST = 32, 4, 3, 8
MOST_CHANNELS = {2: 512, 3: 320}


def strides(edges: Sequence[int]) -> list[tuple[int, ...]]:
    """Stride of each level for tiles of these edges, the first level's 1: 2 along the axes that are still long enough.

    Raises ValueError when no axis can be halved twice: MONAI wants three levels.
    """
    here, levels = list(edges), [(1,) * len(edges)]
    while len(levels) < LEVELS_AT_MOST:
        step = tuple(2 if edge % 2 == 0 and edge // 2 >= LEAST_EDGE else 1 for edge in here)
        if max(step) == 1:
            break
        here = [edge // factor for edge, factor in zip(here, step, strict=True)]
        levels.append(step)
    if len(levels) < LEAST_LEVELS:
        raise ValueError(f"tiles of {tuple(edges)} pixels cannot be halved twice; DynUNet needs an edge of 16 or more")
    return levels


class DynUNet(nn.Module):
    """MONAI's network behind the interface of the other segmentation networks.

    Args:
        in_channels, out_channels: channels of the image and of the output.
        edges: pixels of a tile, (H, W) or (D, H, W); they decide how many levels there are.
        width: multiplier of all channel numbers.

    `divisor`: what edges must be multiples of, along each axis.
    """

    def __init__(self, in_channels: int, out_channels: int, edges: Sequence[int], *, width: float = 1.0) -> None:
        super().__init__()
        # MONAI takes many seconds to import, which only those who use it shall wait for.
        from monai.networks.nets.dynunet import DynUNet as MonaiDynUNet

        steps = strides(edges)
        most = MOST_CHANNELS[len(edges)]
        # The coarsest decoder level is not supervised, and the finest is the output itself.
        supervised = len(steps) - 3
        self.divisor = tuple(2 ** sum(step[axis] == 2 for step in steps) for axis in range(len(edges)))
        self.network = MonaiDynUNet(
            spatial_dims=len(edges),
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=[3] * len(steps),
            strides=steps,
            upsample_kernel_size=steps[1:],
            filters=[scaled(min(most, FIRST_CHANNELS * 2**level), width) for level in range(len(steps))],
            deep_supervision=supervised > 0,
            deep_supr_num=max(1, supervised),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, out_channels, ...) of `image` (N, in_channels, ...), in training too."""
        return self.supervised(image)[0]

    def supervised(self, image: Tensor) -> list[Tensor]:
        """Logits (N, out_channels, ...) at full size, finest first: in training those of the coarser levels as well.

        Raises ValueError when an edge is no multiple of `divisor`.
        """
        check_edges(image.shape[2:], self.divisor)
        logits = self.network(image)
        # In training MONAI stacks all levels, resized to the finest, along a new second axis.
        if logits.dim() == image.dim():
            return [logits]
        return list(torch.unbind(logits, dim=1))
