"""The naive way to tell a generator of a label, which MetGen's label path is compared with: as more image channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metgan_dist.networks.spade import one_hot_label


class LabelAsImage(nn.Module):
    """A plain image-to-image network behind the interface of MetGen: `encode_label`, then `forward`.

    Args:
        backbone: maps (N, in_channels + classes - 1, H, W) to (N, out_channels, H, W) in [-1, 1].
        classes: label classes, background included; 1 for a network that is shown no label.
    """

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classes = classes

    def encode_label(self, label: Tensor) -> Tensor:
        """A label map (N, H, W) as one image per foreground class, (N, classes - 1, H, W), -1 or 1."""
        return label_channels(label, self.classes)

    def forward(self, image: Tensor, label_features: Tensor) -> Tensor:
        """Translate `image` (N, in_channels, H, W) in [-1, 1] into the other domain, (N, out_channels, H, W)."""
        return self.backbone(torch.cat([image, label_features.to(image.dtype)], dim=1))


def label_channels(label: Tensor, classes: int) -> Tensor:
    """A label map (N, H, W) of 0..classes-1 as images (N, classes - 1, H, W): 1 in the class and -1 elsewhere.

    Of one class, the background, there are none, whatever the label holds.
    """
    if classes == 1:
        return torch.zeros((len(label), 0, *label.shape[1:]), device=label.device)
    # In the images' range, so that the first convolution treats both alike; the background is what no class claims.
    return one_hot_label(label, classes, torch.float32)[:, 1:] * 2 - 1
