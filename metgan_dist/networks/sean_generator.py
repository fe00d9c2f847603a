"""SEAN's generator: from a label map and a style per region to an image (methods.md section 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from metgan_dist.networks.dimensions import scaled
from metgan_dist.networks.region_style import STYLE
from metgan_dist.networks.sean import SeanBlock
from metgan_dist.networks.spade import HIDDEN, one_hot_label
from metgan_dist.networks.spade_generator import DIVISOR, WIDEST, SpadeTrunk, coarsest_grid


class SeanGenerator(nn.Module):
    """Label map and styles (and, as part of a VAE, a latent vector) to image.

    SPADE's trunk of SEAN blocks, the last of which takes no style.

    Args:
        channels: channels of the image.
        classes: label classes, background included.
        width: multiplier of all channel numbers, the length of a style included (at least 2; SPADE's hidden channels
            at least 8); 1 is the paper.
        latent: numbers of the latent vector; None for a generator that starts from the label alone.
        edges: edges of the images, needed with `latent`: the linear layer depends on them, so such a generator makes
            images of this size only. Without, any multiple of `divisor` (32) does.

    `style` is the length of a style vector, 512 at width 1.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        *,
        width: float = 1.0,
        latent: int | None = None,
        edges: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.classes, self.latent, self.divisor = classes, latent, DIVISOR
        self.style = style = scaled(STYLE, width)
        self.grid: tuple[int, ...] | None = None
        hidden = scaled(HIDDEN, width, least=8)
        wide = scaled(WIDEST, width)
        if latent is None:
            self.first: nn.Module = nn.Conv2d(classes, wide, kernel_size=3, padding=1)
        else:
            if edges is None:
                raise ValueError("a generator with a latent vector needs the edges of its images")
            self.grid = coarsest_grid(edges)
            self.first = nn.Linear(latent, wide * math.prod(self.grid))
        self.trunk = SpadeTrunk(
            channels,
            lambda i, o, level: SeanBlock(i, o, classes, style if level else 0, hidden=hidden),
            width=width,
        )

    def forward(self, label: Tensor, styles: Tensor, z: Tensor | None = None) -> Tensor:
        """Image (N, channels, H, W) in [-1, 1] of a label map (N, H, W) of integers 0..classes-1.

        Args:
            label: H and W multiples of 32, with `latent` those of `edges`.
            styles: (N, classes, style) in [-1, 1], as a style encoder gives them.
            z: (N, latent), normally distributed; there if and only if the generator has a latent vector.

        Raises ValueError when one of them is not so.
        """
        if styles.shape[1:] != (self.classes, self.style):
            raise ValueError(f"styles (N, {self.classes}, {self.style}) expected, got {tuple(styles.shape)}")
        if (z is None) != (self.latent is None):
            raise ValueError(f"a latent vector of {self.latent} numbers expected, got {None if z is None else z.shape}")
        grid = coarsest_grid(label.shape[1:])
        one_hot = one_hot_label(label, self.classes, next(self.parameters()).dtype)
        if z is None:
            return self.trunk(self.first(functional.interpolate(one_hot, size=grid, mode="nearest")), one_hot, styles)
        if grid != self.grid:
            raise ValueError(f"labels of 32 times {self.grid} pixels expected, got {tuple(label.shape[1:])}")
        return self.trunk(self.first(z).unflatten(1, (-1, *grid)), one_hot, styles)
