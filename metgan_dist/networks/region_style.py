"""SEAN's styles: one vector per region of an image, and their mean over the training set (Zhu et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from metgan_dist.networks.dimensions import scaled
from metgan_dist.networks.eager import eager

STYLE = 512


class StyleEncoder(nn.Module):
    """Encode an image into one style vector per region of its label.

    3x3 convolutions to 32, 64, 128 (the last two with stride 2), a transposed one to 256 at half the edge, each with
    InstanceNorm and LeakyReLU 0.2; one to 512 and tanh; then the mean over each region.

    Args:
        channels: channels of the image.
        classes: label classes, background included.
        width: multiplier of all channel numbers, the length of a style included.

    `style` is the length of a style vector, 512 at width 1.
    """

    def __init__(self, channels: int = 1, classes: int = 2, *, width: float = 1.0) -> None:
        super().__init__()
        c32, c64, c128, c256, self.style = (scaled(number, width) for number in (32, 64, 128, 256, STYLE))
        self.classes = classes
        # No bias where InstanceNorm would remove it.
        self.model = nn.Sequential(
            nn.Conv2d(channels, c32, kernel_size=3, padding=1, padding_mode="reflect", bias=False),
            *_norm_and_activation(c32),
            nn.Conv2d(c32, c64, kernel_size=3, stride=2, padding=1, bias=False),
            *_norm_and_activation(c64),
            nn.Conv2d(c64, c128, kernel_size=3, stride=2, padding=1, bias=False),
            *_norm_and_activation(c128),
            nn.ConvTranspose2d(c128, c256, kernel_size=3, stride=2, padding=1, output_padding=1, bias=False),
            *_norm_and_activation(c256),
            nn.Conv2d(c256, self.style, kernel_size=3, padding=1, padding_mode="reflect"),
            nn.Tanh(),
        )

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """Styles (N, classes, style) in [-1, 1]; zeros for a class that has no pixel in the label.

        Args:
            image: (N, channels, H, W) in [-1, 1], H and W multiples of 4.
            label: (N, H, W) integers 0..classes-1.
        """
        if image.shape[2:] != label.shape[1:] or any(edge % 4 for edge in label.shape[1:]):
            raise ValueError(
                f"image and label must have the same edges, multiples of 4, not {tuple(image.shape[2:])} and "
                f"{tuple(label.shape[1:])}"
            )
        one_hot = functional.one_hot(label.long(), self.classes).movedim(-1, 1)
        return region_means(self.model(image), one_hot)


def _norm_and_activation(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.InstanceNorm2d(channels), nn.LeakyReLU(0.2, inplace=True)


def region_means(features: Tensor, one_hot: Tensor) -> Tensor:
    """Mean of `features` (N, C, h, w) over each region of `one_hot` (N, K, H, W), as (N, K, C); 0 where it is empty.

    The regions keep the label's resolution although the features are coarser: each feature counts by the area that the
    region covers of its cell. A lesion of one pixel would be lost if the label were sampled at the features' grid.
    In float32 at least.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
        height, width = features.shape[2:]
        area = functional.adaptive_avg_pool2d(one_hot.to(features.dtype), (height, width)).flatten(2)
        totals = torch.bmm(area, features.flatten(2).transpose(1, 2))
        # An empty region's total is 0, so any positive divisor gives its zeros.
        covered = area.sum(dim=2, keepdim=True)
        return totals / torch.where(covered > 0, covered, 1)


class MeanStyle(nn.Module):
    """Mean style per class over the images of the training, for generating where no image gives the styles.

    A running mean over the regions that were seen, empty ones left out: each class is weighted by its own number of
    regions. Old styles come from an encoder that has changed since, so a style's weight halves every `half_life`
    images; at the default, the mean reaches back about one epoch of the paper's 1,282 tiles. A class that was never
    seen has zeros, as an empty region has.

    There is nothing to learn: `total` (classes, style) and `regions` (classes,) are buffers, equal on all ranks.
    """

    total: Tensor
    regions: Tensor

    def __init__(self, classes: int, style: int, *, half_life: float = 1000.0) -> None:
        super().__init__()
        self.half_life = half_life
        self.register_buffer("total", torch.zeros(classes, style))
        self.register_buffer("regions", torch.zeros(classes))

    # A collective and a state that changes in every call: neither belongs into a compiled graph.
    @eager
    @torch.no_grad()
    def update(self, styles: Tensor, label: Tensor) -> None:
        """Take in the styles (N, classes, style) of a batch with labels (N, H, W).

        In a process group every rank must call this, each with its own part of the batch: all of them then hold the
        mean over the whole. Raises RuntimeError in eval mode, in which the mean is not to change.
        """
        if not self.training:
            raise RuntimeError("the mean style changes in training mode only")
        classes, style = self.total.shape
        # A region that an image lacks has zeros for a style, which must not pull the mean to zero.
        present = functional.one_hot(label.long(), classes).flatten(1, -2).any(dim=1).to(self.total)
        totals = torch.einsum("nk,nks->ks", present, styles.detach().to(self.total))
        images = self.total.new_tensor([float(len(label))])
        # One collective for all three.
        news = torch.cat([totals.flatten(), present.sum(dim=0), images])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(news)
        totals, regions, images = news.split([classes * style, classes, 1])
        # Of all ranks together: the memory is the same in images on any number of workers.
        keep = 0.5 ** (images / self.half_life)
        self.total.mul_(keep).add_(totals.view(classes, style))
        self.regions.mul_(keep).add_(regions)

    def forward(self, images: int = 1) -> Tensor:
        """The mean styles (images, classes, style), the same for each image."""
        mean = self.total / torch.where(self.regions > 0, self.regions, 1).unsqueeze(1)
        return mean.expand(images, -1, -1)


def mix_styles(a: Tensor, b: Tensor, regions: Sequence[int], weight: float | Tensor = 1.0) -> Tensor:
    """Styles `a` with those of some regions moved towards `b`'s: a + weight (b - a) for each class in `regions`.

    Args:
        a, b: styles (N, classes, style), of the same classes; one of them may have N = 1.
        regions: classes, 0..classes-1.
        weight: 0 leaves a, 1 takes b, in between interpolates; a number, or one per image (N,).

    Returns:
        (N, classes, style). Raises ValueError when a region is no class or the styles do not fit each other.
    """
    classes = a.shape[1]
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"styles of the same classes and length expected, got {tuple(a.shape)} and {tuple(b.shape)}")
    if not all(0 <= region < classes for region in regions):
        raise ValueError(f"regions {list(regions)} must be classes 0..{classes - 1}")
    share = torch.zeros(classes, 1, dtype=a.dtype, device=a.device)
    share[list(regions)] = 1
    return torch.lerp(a, b, share * (weight.reshape(-1, 1, 1) if isinstance(weight, Tensor) else weight))
