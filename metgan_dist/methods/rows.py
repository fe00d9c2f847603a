"""The rows of paper 1's table 2: which components a method has, and the generators that they are compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import torch
from torch import nn

from metgan_dist.networks.initialise import initialise
from metgan_dist.networks.label_as_image import LabelAsImage
from metgan_dist.networks.metgen import MetGen
from metgan_dist.networks.resnet_9 import ResNet9
from metgan_dist.networks.spade import Norm
from metgan_dist.networks.unet import LEAST_HALVINGS, centre_values, halvings_of
from metgan_dist.networks.unet_256 import LEAST_DOWNS, UNet256, downs_of

Backbone = Literal["metgen", "unet-256", "resnet-9"]
# How bright, in [-1, 1], images may be at most that MetGen begins with: further out the tanh hardly moves.
BRIGHTEST = 0.95


@dataclass(frozen=True)
class LossWeights:
    """alpha1 to alpha4 of paper 1's equation 4, and CycleGAN's identity loss; a term of weight 0 is not computed.

    The segmentation term is a mean over pixels, not a sum, with weight 1 on background: a segmentor at chance gives
    log 2 there, so alpha3 = 100 starts near 70, where images that are off by 0.3 give 6 for cycle and 6 for pair.
    """

    adversarial: float = 1.0
    cycle: float = 10.0
    segmentation: float = 100.0
    pair: float = 10.0
    identity: float = 0.0


PAPER_LOSS_WEIGHTS = LossWeights()


@dataclass(frozen=True)
class Terms:
    """The ticks of one row. Without a cycle the discriminator is conditional.

    `discriminator_first`: as pix2pix was released, the discriminator moves first, and at half its loss.
    """

    segmentor: bool
    pair: bool
    cycle: bool
    discriminator_first: bool = False

    def weights(self, given: LossWeights) -> LossWeights:
        """`given` with 0 for the terms that this row does not have."""
        absent = {
            "segmentation": not self.segmentor,
            "pair": not self.pair,
            "cycle": not self.cycle,
            "identity": not self.cycle,
        }
        return replace(given, **{name: 0.0 for name, missing in absent.items() if missing})


ROWS: Mapping[str, Terms] = MappingProxyType(
    {
        "pix2pix": Terms(segmentor=False, pair=True, cycle=False, discriminator_first=True),
        "pix2pix_seg": Terms(segmentor=True, pair=True, cycle=False, discriminator_first=True),
        "cyclegan": Terms(segmentor=False, pair=False, cycle=True),
        "cyclegan_seg": Terms(segmentor=True, pair=False, cycle=True),
        "metgen_cond": Terms(segmentor=False, pair=True, cycle=False),
        "metgen_cond_seg": Terms(segmentor=True, pair=True, cycle=False),
        "metgen_cycle": Terms(segmentor=False, pair=True, cycle=True),
        "metgan_minus": Terms(segmentor=True, pair=False, cycle=True),
        "metgan": Terms(segmentor=True, pair=True, cycle=True),
    }
)


def build_generator(
    backbone: Backbone,
    in_channels: int,
    out_channels: int,
    classes: int,
    edges: Sequence[int],
    width: float,
    merge_full_resolution: bool,
    stochastic_inference: bool,
    label_norm: Norm,
) -> nn.Module:
    """A generator with fresh weights N(0, 0.02): `encode_label(l)`, then `forward(image, features)`.

    `image` is (N, in_channels, *edges), what is made of it (N, out_channels, *edges); two edges or three.
    """
    dimensions = len(edges)
    if backbone == "metgen":
        metgen = MetGen(
            in_channels,
            out_channels,
            classes,
            width,
            merge_full_resolution,
            dimensions=dimensions,
            label_norm=label_norm,
            halvings=halvings_of(edges),
        )
        initialise(metgen)
        begin_balanced(metgen.anatomy_path.output)
        return metgen
    incoming = in_channels + classes - 1
    if backbone == "resnet-9":
        resnet = ResNet9(incoming, out_channels, width=width, dimensions=dimensions)
        return initialise(LabelAsImage(resnet, classes))
    unet = UNet256(
        incoming,
        out_channels,
        width=width,
        downs=downs_of(*edges),
        stochastic=stochastic_inference,
        dimensions=dimensions,
    )
    return initialise(LabelAsImage(unet, classes))


def begin_balanced(output: nn.modules.conv._ConvNd) -> None:
    """Start a last layer between a ReLU and a tanh with as many weights that brighten as that darken, in place.

    Small ones are all driven down, or up, by an image's mean before they learn anything of it. A narrow network has
    six, and where all are negative no image is brighter than tanh(bias): bright tissue is one flat grey; where all are
    positive, dark tissue is. Weights of torch's own size keep their signs, and the bias has the mean (`begin_at`).
    """
    nn.init.uniform_(output.weight, 0.0, output.in_channels**-0.5)
    with torch.no_grad():
        output.weight[:, 1::2].neg_()


def begin_at(output: nn.modules.conv._ConvNd, means: Sequence[float]) -> None:
    """Let the layer of `begin_balanced` begin at the mean of each channel of the images, in [-1, 1], in place."""
    assert output.bias is not None
    with torch.no_grad():
        output.bias.copy_(torch.tensor(means).clamp(-BRIGHTEST, BRIGHTEST).atanh())


def backbone_divisor(backbone: Backbone, dimensions: int) -> int:
    """What the edges of a generator's images must be multiples of.

    U-Net-256 has as many downs as the size allows, but five; MetGen six, in 3D three along a thin axis.
    """
    divisors = {"metgen": 2 ** LEAST_HALVINGS[dimensions], "unet-256": 2**LEAST_DOWNS, "resnet-9": ResNet9.divisor}
    return divisors[backbone]


def coarsest_values(backbone: Backbone, edges: Sequence[int]) -> int | None:
    """Values of a channel that a generator's coarsest BatchNorm has of one image; None for ResNet-9, which has none."""
    if backbone == "resnet-9":
        return None
    if backbone == "metgen":
        return centre_values(edges)
    # The innermost down has no norm, so the coarsest is that of the one before.
    return math.prod(edge // 2 ** (downs_of(*edges) - 1) for edge in edges)
