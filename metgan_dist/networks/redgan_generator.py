"""RedGAN's generator: SPADE's, told of a class of the whole image as well (Qasim et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from metgan_dist.networks.dimensions import scaled
from metgan_dist.networks.spade import HIDDEN, SpadeBlock, one_hot_label
from metgan_dist.networks.spade_generator import DIVISOR, PAPER, SpadeTrunk, coarsest_grid


class RedGanGenerator(nn.Module):
    """Label map and global class (organ, scanner, ...) to image.

    The class is embedded in 1024 numbers, taken by a linear layer to 1024 channels on the coarsest grid, and
    concatenated to the label's 1024 before the first of SPADE's blocks.

    Args:
        channels: channels of the image.
        classes: label classes, background included.
        global_classes: classes of whole images.
        edges: edges of the images; the linear layer gives each place of the coarsest grid weights of its own, so the
            generator makes images of this size only.
        width: multiplier of all channel numbers (at least 2; SPADE's hidden channels at least 8); 1 is the paper.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        global_classes: int = 1,
        *,
        edges: Sequence[int] = (256, 256),
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.classes, self.divisor = classes, DIVISOR
        self.grid = coarsest_grid(edges)
        hidden = scaled(HIDDEN, width, least=8)
        wide = scaled(PAPER.widest, width)
        self.first = nn.Conv2d(classes, wide, kernel_size=3, padding=1)
        self.embedding = nn.Embedding(global_classes, wide)
        self.spread = nn.Linear(wide, wide * math.prod(self.grid))
        self.trunk = SpadeTrunk(
            channels, lambda i, o, level: SpadeBlock(i, o, classes, hidden=hidden), width=width, extra=wide
        )

    def forward(self, label: Tensor, global_class: Tensor) -> Tensor:
        """Image (N, channels, H, W) in [-1, 1].

        Args:
            label: (N, H, W) integers 0..classes-1, H and W those of `edges`; else ValueError.
            global_class: (N,) integers 0..global_classes-1.
        """
        grid = coarsest_grid(label.shape[1:])
        if grid != self.grid:
            raise ValueError(f"labels of 32 times {self.grid} pixels expected, got {tuple(label.shape[1:])}")
        one_hot = one_hot_label(label, self.classes, self.embedding.weight.dtype)
        of_label = self.first(functional.interpolate(one_hot, size=grid, mode="nearest"))
        of_class = self.spread(self.embedding(global_class)).unflatten(1, (-1, *grid))
        return self.trunk(torch.cat([of_label, of_class], dim=1), one_hot)
