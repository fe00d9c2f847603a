"""What a trained SinGAN makes: samples, the image that it has learned, harmonised pastes, larger images.

    pyramid = load_method("runs/slice-1")[0].pyramid
    pasted = pyramid.harmonise(image, start_scale=5, seed=0)  # (C, H, W) in [-1, 1], of any size

Generator n adds to what the one before it has made, brought to the size of scale n: G_N(... G_1(G_0(0, z_0), z_1) ...,
z_N). An image of another origin may be put in before any generator but the first. It need not be as large as the image
that was learned: the generators are convolutions, and each scale has pixels of one size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from metgan_dist.errors import UserError
from metgan_dist.methods.scales import Edges, Scales
from metgan_dist.networks.resize import resize
from metgan_dist.networks.singan import ScaleGenerator

# The nearest that sizes of super-resolution lie to each other; scales of small images lie nearer.
NEAREST = 0.9
Seed = int | Sequence[int]
Noise = Callable[[int, Tensor], Tensor | None]
"""Noise for the generator of a scale, to be added to an image (N, C, ...): (N, 1 or C, ...), or none."""


def drawn(scale: int, image: Tensor) -> Tensor:
    """Noise N(0, 1) from torch's global random state; of the coarsest scale the same for all channels."""
    shape = (len(image), _channels(scale, image), *image.shape[2:])
    return torch.randn(shape, dtype=image.dtype, device=image.device)


def seeded(seeds: Sequence[Seed]) -> Noise:
    """Noise that follows from a seed for each image, whatever the device and whatever is drawn beside it."""
    random = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]

    def noise(scale: int, image: Tensor) -> Tensor:
        shape = (_channels(scale, image), *image.shape[2:])
        return torch.from_numpy(np.stack([own.standard_normal(shape) for own in random])).to(image)

    return noise


def _channels(scale: int, image: Tensor) -> int:
    return image.shape[1] if scale else 1


class Pyramid:
    """The generators of the scales that have been learned, coarsest first, and the sizes at which they work.

    Nothing here needs gradients; images are (N, C, [D,] H, W) or, where it says so, one (C, [D,] H, W), in [-1, 1].
    """

    def __init__(self, generators: Sequence[ScaleGenerator], scales: Scales, channels: int) -> None:
        self.generators, self.scales, self.channels = tuple(generators), scales, channels

    @torch.no_grad()
    def sample(self, seeds: Sequence[Seed], shape: Sequence[int] | None = None) -> list[Tensor]:
        """Random images (len(seeds), C, ...) at every scale, of an image of `shape` pixels; by default of the learned
        one's. The last are the finest."""
        edges = self.scales.edges if shape is None else self.scales.of_image(shape)
        steps = self._steps(self._nothing(len(seeds), edges[0]), edges, seeded(seeds))
        return [image.clamp(-1, 1) for image in steps]

    @torch.no_grad()
    def reconstruct(self) -> list[Tensor]:
        """The image that was learned, (1, C, ...) at every scale, as it is made from z*."""
        edges = self.scales.edges
        return [image.clamp(-1, 1) for image in self._steps(self._nothing(1, edges[0]), edges, self.fixed)]

    @torch.no_grad()
    def harmonise(self, image: Tensor, start_scale: int, seed: Seed) -> Tensor:
        """An image (C, ...) of any size as if it were of the learned image's kind, as large as it was.

        It is put in at `start_scale`, counted from the coarsest as 0: what is smaller than the pixels of the scale
        below is made anew, so that an early scale changes more. Raises UserError for a scale at which there is no
        generator, and for the coarsest, which sees noise alone.
        """
        self.check_start(start_scale)
        edges = self.scales.of_image(image.shape[1:])
        coarser = resize(image[None], edges[start_scale - 1])
        *_, made = self._steps(coarser, edges, seeded([seed]), start_scale)
        return resize(made, image.shape[1:])[0].clamp(-1, 1)

    def check_start(self, start_scale: int) -> None:
        """UserError for a scale that no image can be put in at."""
        check_start(start_scale, len(self.generators))

    @torch.no_grad()
    def super_resolve(self, image: Tensor, times: float, seed: Seed) -> Tensor:
        """An image (C, ...) with edges `times` as long, in steps of about a scale, each by the finest generator.

        Raises UserError unless `times` is above 1.
        """
        if times <= 1:
            raise UserError(f"super-resolution by {times:g}: give a factor above 1")
        steps = max(1, round(math.log(times) / -math.log(min(self.scales.factor, NEAREST))))
        noise, scale, made = seeded([seed]), len(self.generators) - 1, image[None]
        for step in range(1, steps + 1):
            grown = times ** (step / steps)
            larger = resize(made, [round(edge * grown) for edge in image.shape[1:]])
            made = self.generators[scale](larger, noise(scale, larger))
        return made[0].clamp(-1, 1)

    def real(self, image: Tensor, scale: int) -> Tensor:
        """Images (N, C, ...) that are to be learned, at a scale: brought to the finest one first."""
        return resize(resize(image, self.scales.edges[-1]), self.scales.edges[scale])

    @torch.no_grad()
    def below(self, scale: int, count: int, noise: Noise) -> Tensor:
        """What the generators below `scale` make of noise alone, (count, C, ...), brought to the size of the scale."""
        edges = self.scales.edges
        nothing = self._nothing(count, edges[0])
        *_, image = nothing, *itertools.islice(self._steps(nothing, edges, noise), scale)
        return resize(image, edges[scale])

    def fixed(self, scale: int, _image: Tensor) -> Tensor | None:
        """The noise of the reconstruction: z* at the coarsest scale, none at others."""
        return self.generators[scale].fixed

    def _nothing(self, count: int, edges: Edges) -> Tensor:
        """What the coarsest generator adds to: (count, C, *edges) of 0."""
        weight = next(self.generators[0].parameters())
        return weight.new_zeros(count, self.channels, *edges)

    def _steps(self, image: Tensor, edges: Sequence[Edges], noise: Noise, first: int = 0) -> Iterator[Tensor]:
        """What each generator makes in turn, from `first` on, of an image of a coarser scale."""
        for scale in range(first, len(self.generators)):
            coarser = resize(image, edges[scale])
            image = self.generators[scale](coarser, noise(scale, coarser))
            yield image


def check_start(start_scale: int, scales: int) -> None:
    """UserError for a scale that no image can be put in at, in a pyramid of so many scales."""
    last = scales - 1
    if not 1 <= start_scale <= last:
        raise UserError(
            f"start scale {start_scale}: the pyramid has scales 1 to {last} to start from, 1 being the coarsest that "
            "sees an image"
        )
