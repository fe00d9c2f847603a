"""SPADE's generator: from a label map, or from a label map and a latent vector, to an image (Park et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from metgan_dist.networks.dimensions import check_edges, layers_of, scaled
from metgan_dist.networks.spade import HIDDEN, SpadeBlock, one_hot_label


@dataclass(frozen=True)
class Layout:
    """Blocks of a trunk, coarsest first: level L has 1/2^L of the image's edge.

    widest: channels of the first features at width 1; blocks, levels: channels of each block at width 1, and its level.
    """

    widest: int
    blocks: tuple[int, ...]
    levels: tuple[int, ...]


# As released, two blocks in a row work at 1/16 and one at each other level.
PAPER = Layout(1024, (1024, 1024, 1024, 512, 256, 128, 64), (5, 4, 4, 3, 2, 1, 0))
# Paper 4 (appendix A.3) upsamples after each of its blocks: none works at full resolution.
STROKE = Layout(128, (128, 64, 32, 16, 8), (5, 4, 3, 2, 1))
DIVISOR = 2**5


class SpadeTrunk(nn.Module):
    """Residual blocks from 1/32 of the image's edge up to the image: the part that SEAN and RedGAN share.

    Args:
        channels: channels of the image.
        block: builds a block from (in_channels, out_channels, level); its forward takes the features and whatever else
            `forward` is given.
        width: multiplier of all channel numbers; 1 is the paper.
        extra: channels that come to the first block beside its 1024.
        layout: the blocks; seven as published.
    """

    def __init__(
        self,
        channels: int,
        block: Callable[[int, int, int], nn.Module],
        *,
        width: float = 1.0,
        extra: int = 0,
        dimensions: int = 2,
        layout: Layout = PAPER,
    ) -> None:
        super().__init__()
        self.levels = layout.levels
        self.blocks = nn.ModuleList()
        incoming = scaled(layout.widest, width) + extra
        for paper, level in zip(layout.blocks, layout.levels, strict=True):
            outgoing = scaled(paper, width)
            self.blocks.append(block(incoming, outgoing, level))
            incoming = outgoing
        self.image = layers_of(dimensions).convolution(incoming, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """Features (N, 1024 + extra, H/32, W/32) at width 1 to an image (N, channels, H, W) in [-1, 1]."""
        at = self.levels[0]
        for block, level in zip(self.blocks, self.levels, strict=True):
            if level != at:
                x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x, at = block(x, *conditions), level
        if at:
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
        x = self.image(functional.leaky_relu(x, 0.2))
        # tanh in float32: near -1 and 1 bfloat16 has steps of 1/256, coarser than an 8-bit image.
        return torch.tanh(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x)


class LabelGenerator(nn.Module):
    """Label map (and, as part of a VAE, latent vector) to image: what the generators of SPADE and SEAN have in common.

    SPADE's trunk behind one layer, `first`, that takes the label, or the latent vector in its place, to the coarsest
    features. A subclass says of which blocks the trunk is.

    Args:
        channels: channels of the image.
        classes: label classes, background included.
        block: see `SpadeTrunk`.
        width: multiplier of all channel numbers; 1 is the paper.
        latent: numbers of the latent vector; None for a generator that starts from the label alone.
        edges: edges of the images, needed with `latent` (else ValueError): its linear layer gives each place of the
            coarsest grid weights of its own, so such a generator makes images of this size only. Without, any multiples
            of `divisor` (32) do.
        layout: the trunk's blocks.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        block: Callable[[int, int, int], nn.Module],
        *,
        width: float,
        latent: int | None,
        edges: Sequence[int] | None,
        dimensions: int = 2,
        layout: Layout = PAPER,
    ) -> None:
        super().__init__()
        self.classes, self.latent, self.divisor = classes, latent, DIVISOR
        self.grid: tuple[int, ...] | None = None
        wide = scaled(layout.widest, width)
        if latent is None:
            self.first: nn.Module = layers_of(dimensions).convolution(classes, wide, kernel_size=3, padding=1)
        else:
            if edges is None:
                raise ValueError("a generator with a latent vector needs the edges of its images")
            self.grid = coarsest_grid(edges)
            self.first = nn.Linear(latent, wide * math.prod(self.grid))
        self.trunk = SpadeTrunk(channels, block, width=width, dimensions=dimensions, layout=layout)

    def _image(self, label: Tensor, z: Tensor | None, *conditions: Tensor) -> Tensor:
        """Image (N, channels, H, W) in [-1, 1]; the blocks are given the one-hot label, then `conditions`.

        Raises ValueError where `z` is there without `latent` or missing with it, or where the label's edges do not fit.
        """
        if (z is None) != (self.latent is None):
            raise ValueError(f"a latent vector of {self.latent} numbers expected, got {None if z is None else z.shape}")
        grid = coarsest_grid(label.shape[1:])
        dtype = next(self.parameters()).dtype
        one_hot = one_hot_label(label, self.classes, dtype)
        if z is None:
            # The label is all that there is to start from; the blocks are given it again at each level.
            coarsest = self.first(functional.interpolate(one_hot, size=grid, mode="nearest"))
        elif grid == self.grid:
            coarsest = self.first(z.to(dtype)).unflatten(1, (-1, *grid))
        else:
            raise ValueError(f"labels of 32 times {self.grid} pixels expected, got {tuple(label.shape[1:])}")
        return self.trunk(coarsest, one_hot, *conditions)


class SpadeGenerator(LabelGenerator):
    """Label map (and, as part of a VAE, latent vector) to image. 92,028,481 parameters at one channel, two classes.

    With `layout` STROKE, 128 numbers of latent vector and 128 x 128 pixels it is paper 4's: 2,725,417 at one channel
    and two classes.

    Args:
        width: multiplier of all channel numbers (at least 2; SPADE's hidden channels at least 8); 1 is the paper.
        channels, classes, latent, edges, layout: see `LabelGenerator`.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        *,
        width: float = 1.0,
        latent: int | None = None,
        edges: Sequence[int] | None = None,
        dimensions: int = 2,
        layout: Layout = PAPER,
    ) -> None:
        hidden = scaled(HIDDEN, width, least=8)
        super().__init__(
            channels,
            classes,
            lambda i, o, level: SpadeBlock(i, o, classes, hidden=hidden, dimensions=dimensions),
            width=width,
            latent=latent,
            edges=edges,
            dimensions=dimensions,
            layout=layout,
        )

    def forward(self, label: Tensor, z: Tensor | None = None) -> Tensor:
        """Image (N, channels, H, W) in [-1, 1] of a label map (N, H, W) of integers 0..classes-1.

        `z` (N, latent), normally distributed, is there if and only if the generator has a latent vector. Raises
        ValueError when it is not, or when the edges are not multiples of 32 or not those of the linear layer.
        """
        return self._image(label, z)


def coarsest_grid(edges: Sequence[int]) -> tuple[int, ...]:
    """An image's edges divided by 32; ValueError where that leaves a remainder."""
    check_edges(edges, DIVISOR, DIVISOR)
    return tuple(edge // DIVISOR for edge in edges)
