"""MONAI's DynUNet laid out as nnU-Net lays out its U-Net (Isensee et al., Nature Methods 2021).

Two convolutions a level with InstanceNorm and LeakyReLU 0.01, strided convolutions down, transposed ones up, 32
channels at full resolution doubling to at most 512 (320 in 3D). How many levels there are, and which axes they halve
with which kernels, follows from the tile and its voxels (`nnunet_plan`). In training, logits of the coarser decoder
levels are given too (deep supervision), the coarsest left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metgan_dist.networks.dimensions import check_edges, scaled
from metgan_dist.networks.nnunet_plan import LEAST_LEVELS, Layout, layout_of

LEVELS_AT_MOST = 8


def dynunet_layout(edges: Sequence[int], spacing: Sequence[float] | None = None) -> Layout:
    """Levels for tiles of these edges and voxels of this size, eight at most; odd edges are not halved.

    Raises ValueError when no axis can be halved twice: MONAI wants three levels.
    """
    layout = layout_of(edges, spacing, pad=False)
    if len(layout.strides) < LEAST_LEVELS:
        raise ValueError(f"tiles of {tuple(edges)} pixels cannot be halved twice; DynUNet needs edges of 16 or more")
    return Layout(layout.strides[:LEVELS_AT_MOST], layout.kernels[:LEVELS_AT_MOST])


class DynUNet(nn.Module):
    """MONAI's network behind the interface of the other segmentation networks.

    Args:
        in_channels, out_channels: channels of the image and of the output.
        edges: pixels of a tile, (H, W) or (D, H, W); they decide how many levels there are.
        spacing: size of these pixels along each axis, in any unit; without it they are as long as wide.
        width: multiplier of all channel numbers.

    `divisor`: what edges must be multiples of, along each axis.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        edges: Sequence[int],
        *,
        spacing: Sequence[float] | None = None,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        # MONAI takes many seconds to import, which only those who use it shall wait for.
        from monai.networks.nets.dynunet import DynUNet as MonaiDynUNet

        layout = dynunet_layout(edges, spacing)
        # The coarsest decoder level is not supervised, and the finest is the output itself.
        supervised = len(layout.strides) - 3
        self.divisor = layout.divisor
        self.network = MonaiDynUNet(
            spatial_dims=len(edges),
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=layout.kernels,
            strides=layout.strides,
            upsample_kernel_size=layout.strides[1:],
            filters=[scaled(channels, width) for channels in layout.channels()],
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
