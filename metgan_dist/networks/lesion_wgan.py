"""Generator and critic of lesion masks (paper 4, appendix A.4).

The appendix names the parts and no sizes: a Wasserstein GAN with gradient penalty on 3D masks, a softmax at the end,
instance norm and LeakyReLU 0.2 after each convolution-upsampling step. The sizes are ours. At 32 x 128 x 128 (z, y, x):

    generator  z (128) -> dense -> 512 x 1 x 4 x 4
               5 steps: convolution 3 -> instance norm -> LeakyReLU 0.2 -> twice the edges, 512-256-128-64-32-16
               convolution 3 -> 2 channels -> softmax
    critic     5 convolutions of kernel 4 and stride 2, LeakyReLU 0.2 after each, 2-32-64-128-256-512 -> dense -> 1

5,772,610 and 11,154,401 parameters. With the nearest neighbour norm and activation give the same before the upsampling
as after it, at an eighth of the work. The critic has no norm: an instance norm would hide from it how much of a mask is
lesion, and a batch norm would tie the samples together, whose gradients the penalty takes one by one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from metgan_dist.networks.dimensions import halvings, layers_of, scaled
from metgan_dist.networks.recompute import Recomputable

# Of the generator from the coarsest map to the finest, and of the critic's convolutions from the finest; of smaller
# masks, which take fewer steps, the coarsest are left out.
GENERATOR = (512, 256, 128, 64, 32, 16)
CRITIC = (32, 64, 128, 256, 512)
STEPS = len(CRITIC)
COARSEST = 4  # voxels that the longest edge has left, or a few more
SLOPE = 0.2


def doublings(edges: Sequence[int]) -> tuple[int, ...]:
    """How often each edge is doubled from the coarsest map on, at most five times: (5, 5, 5) of 32 x 128 x 128.

    As often as the longest one can be that is to begin with four voxels, and as an edge can be halved. An edge that is
    doubled less often than others is so in the last steps.
    """
    return halvings(edges, min(STEPS, int(math.log2(max(edges) / COARSEST))))


def _steps(edges: Sequence[int]) -> list[tuple[int, ...]]:
    """By how much each edge grows in each step, coarsest first."""
    times = doublings(edges)
    return [tuple(2 if step < own else 1 for own in times) for step in reversed(range(max(times)))]


def _coarsest(edges: Sequence[int]) -> tuple[int, ...]:
    """Voxels of the coarsest map."""
    return tuple(edge // 2**times for edge, times in zip(edges, doublings(edges), strict=True))


class Step(Recomputable):
    """Convolution, instance norm, LeakyReLU, and edges `growth` times as long."""

    def __init__(self, fed: int, made: int, growth: tuple[int, ...]) -> None:
        super().__init__()
        layers, self.growth = layers_of(len(growth)), tuple(map(float, growth))
        # Without a bias, which the norm would take away.
        self.convolution = layers.convolution(fed, made, 3, padding=1, bias=False)
        self.norm = layers.instance_norm(made, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, made, ...) of maps (N, fed, ...)."""
        x = functional.leaky_relu(self.norm(self.convolution(x)), SLOPE)
        return functional.interpolate(x, scale_factor=self.growth, mode="nearest")


class MaskGenerator(nn.Module):
    """Masks as probabilities of their classes, from latent vectors.

    Args:
        classes: background included.
        edges: of a mask, (D, H, W) or (H, W), multiples of 4, 8 or more.
        latent: numbers in a latent vector.
        width: multiplier of all channel numbers.
    """

    divisor = 4
    least_edge = 2 * COARSEST

    def __init__(self, classes: int, edges: Sequence[int], *, latent: int = 128, width: float = 1.0) -> None:
        super().__init__()
        growth = _steps(edges)
        self.coarsest = _coarsest(edges)
        channels = [scaled(number, width) for number in GENERATOR[-len(growth) - 1 :]]
        self.dense = nn.Linear(latent, channels[0] * math.prod(self.coarsest))
        pairs = zip(itertools.pairwise(channels), growth, strict=True)
        self.steps = nn.Sequential(*(Step(fed, made, grows) for (fed, made), grows in pairs))
        layers = layers_of(len(edges))
        self.output = layers.convolution(channels[-1], classes, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Probabilities (N, classes, [D,] H, W), float32 at least, of latent vectors (N, latent)."""
        x = self.dense(z).unflatten(1, (-1, *self.coarsest))
        logits = self.output(self.steps(x))
        return logits.softmax(dim=1, dtype=torch.promote_types(logits.dtype, torch.float32))


class MaskCritic(nn.Module):
    """One number a mask, of any size: higher where it is more like a real one.

    Args: as `MaskGenerator`.
    """

    def __init__(self, classes: int, edges: Sequence[int], *, width: float = 1.0) -> None:
        super().__init__()
        layers, strides = layers_of(len(edges)), _steps(edges)[::-1]
        channels = [classes, *(scaled(number, width) for number in CRITIC[: len(strides)])]
        # An edge that stays has a kernel of 3, which keeps it. Any: a tuple of either dimensionality.
        kernels: list[Any] = [tuple(2 + step for step in stride) for stride in strides]
        sizes: list[tuple[Any, Any]] = list(zip(kernels, strides, strict=True))
        self.convolutions = nn.ModuleList(
            layers.convolution(fed, made, kernel, stride=stride, padding=1)
            for (fed, made), (kernel, stride) in zip(itertools.pairwise(channels), sizes, strict=True)
        )
        self.dense = nn.Linear(channels[-1] * math.prod(_coarsest(edges)), 1)

    def forward(self, mask: Tensor) -> Tensor:
        """(N,) of masks (N, classes, [D,] H, W) in [0, 1], whose channels sum to 1."""
        for convolution in self.convolutions:
            mask = functional.leaky_relu(convolution(mask), SLOPE)
        return self.dense(mask.flatten(1))[:, 0]
