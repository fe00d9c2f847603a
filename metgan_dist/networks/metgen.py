"""MetGen, the dual-pathway generator (papers 1 and 2, figure 2): a U-Net on the image, SPADE blocks on the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from metgan_dist.networks.label_path import LabelPath
from metgan_dist.networks.spade import Norm
from metgan_dist.networks.unet import UNet


class MetGen(nn.Module):
    """F: (x, l) -> y or G: (y, l) -> x.

    The label features depend on the label alone, so they are computed apart (`encode_label`) and used for every image
    that carries this label: once per direction and step where the authors compute them twice.

    Args:
        in_channels, out_channels: channels of the image and of what is made of it.
        classes: label classes, background included.
        width: multiplier of all channel numbers; 1 is the paper.
        merge_full_resolution: also merge label features at full resolution, before the last 1x1 convolution.
        dimensions: 2 as in the papers, or 3.
        label_norm: `norm` of the label path; the papers' is `batch`.
        halvings: how often each axis halves; by default six times, as in the papers.

    `divisor`: what edges must be multiples of, along each axis; 64 in the papers.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        classes: int = 2,
        width: float = 1.0,
        merge_full_resolution: bool = False,
        *,
        dimensions: int = 2,
        label_norm: Norm = "batch",
        halvings: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.label_path = LabelPath(
            classes,
            width=width,
            merge_full_resolution=merge_full_resolution,
            dimensions=dimensions,
            norm=label_norm,
            halvings=halvings,
        )
        self.anatomy_path = UNet(
            in_channels,
            out_channels,
            width=width,
            dimensions=dimensions,
            merge=self.label_path.channels,
            halvings=halvings,
        )
        self.divisor = self.anatomy_path.divisor

    def encode_label(self, label: Tensor) -> dict[int, Tensor]:
        """Features per level of a label map (N, H, W) of integers 0..classes-1, for `forward`."""
        return self.label_path(label)

    def forward(self, image: Tensor, label_features: Mapping[int, Tensor]) -> Tensor:
        """Translate `image` (N, in_channels, H, W) in [-1, 1] into the other domain, (N, out_channels, H, W)."""
        translated = self.anatomy_path(image, label_features)
        # tanh in float32: near -1 and 1 bfloat16 has steps of 1/256, coarser than an 8-bit image.
        return torch.tanh(translated.float() if translated.dtype in (torch.float16, torch.bfloat16) else translated)
