"""Generator and critic of one scale of SinGAN (Shaham et al., ICCV 2019), on images or volumes.

Both are five convolutions of kernel 3 without padding, the first four followed by BatchNorm and LeakyReLU 0.2, so that
an output pixel sees 11 x 11 and a map is ten pixels smaller. The width is 32 at the four coarsest scales, 64 at the
next four, 128 from there on. At one channel either has 28,609, 112,513 or 446,209 parameters, and 85,057, 336,001 or
1,335,553 in 3D, which is beyond the paper.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from metgan_dist.networks.dimensions import layers_of, scaled
from metgan_dist.networks.recompute import Recomputable

CONVOLUTIONS = 5
MARGIN = CONVOLUTIONS  # pixels that a map loses on each side
NARROWEST, WIDEST, SCALES_A_WIDTH = 32, 128, 4
SLOPE = 0.2


def width_at(scale: int, width: float = 1.0) -> int:
    """Channels at a scale, counted from the coarsest as 0; `width`: multiplier."""
    return scaled(min(WIDEST, NARROWEST * 2 ** (scale // SCALES_A_WIDTH)), width)


class Block(Recomputable):
    """Convolution, BatchNorm, LeakyReLU."""

    def __init__(self, fed: int, made: int, dimensions: int) -> None:
        super().__init__()
        layers = layers_of(dimensions)
        self.convolution = layers.convolution(fed, made, 3)
        self.norm = layers.batch_norm(made)

    def forward(self, x: Tensor) -> Tensor:
        """(N, made, ...), each edge two pixels shorter, of maps (N, fed, ...)."""
        return functional.leaky_relu(self.norm(self.convolution(x)), SLOPE)


def _convolutions(fed: int, made: int, width: int, dimensions: int) -> nn.Sequential:
    channels = [fed, *(width,) * (CONVOLUTIONS - 1)]
    blocks = [Block(*pair, dimensions) for pair in itertools.pairwise(channels)]
    return nn.Sequential(*blocks, layers_of(dimensions).convolution(width, made, 3))


class ScaleCritic(nn.Module):
    """A map of numbers of an image, higher where the 11 x 11 pixels about a place are more like real ones.

    Args:
        channels: of the images.
        width: channels within.
        dimensions: 2 or 3.
    """

    def __init__(self, channels: int, width: int, dimensions: int) -> None:
        super().__init__()
        self.layers = _convolutions(channels, 1, width, dimensions)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, ...), ten pixels shorter along each edge, of images (N, channels, ...)."""
        return self.layers(image)


class ScaleGenerator(nn.Module):
    """An image of one scale from noise and the image of the coarser one, brought to its size, to which it adds.

    Args: as `ScaleCritic`; `fixed`: edges of the noise z* from which the training image is reconstructed, which the
        coarsest scale alone has; drawn from torch's global random state.

    Attributes:
        amplitude: what noise is multiplied by, a number; 1 at the coarsest scale, 0 until it has been measured.
        fixed: z* (1, 1, *edges), the same for all channels; None at finer scales, where it is 0.
    """

    amplitude: Tensor
    fixed: Tensor | None

    def __init__(self, channels: int, width: int, dimensions: int, fixed: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.layers = _convolutions(channels, channels, width, dimensions)
        self._margins = (MARGIN,) * 2 * dimensions
        self.register_buffer("amplitude", torch.tensor(0.0 if fixed is None else 1.0))
        self.register_buffer("fixed", None if fixed is None else torch.randn(1, 1, *fixed))

    def forward(self, coarser: Tensor, noise: Tensor | None) -> Tensor:
        """Images (N, channels, ...) of those of the coarser scale, as large, and N(0, 1) noise that is as large.

        Noise of one channel goes to all; None is none. What is made is not bounded, as what it adds to is not.
        """
        fed = coarser if noise is None else coarser + self.amplitude * noise
        # Zeros about both, as far as the convolutions reach.
        return self.layers(functional.pad(fed, self._margins)).tanh() + coarser
