"""RedGAN (Qasim et al. 2020): no perceptual loss, and a segmentor whose encoder is ResNet34's."""

from __future__ import annotations

from typing import Literal

from metgan_dist.recipe.method import SegmentorKind
from metgan_dist.recipe.methods.terms import LabelToImageRecipe, OrgansRecipe, PerceptualWeight


class RedGANRecipe(OrgansRecipe, LabelToImageRecipe):
    """From the label and the organ."""

    name: Literal["redgan"] = "redgan"
    perceptual: PerceptualWeight = 0.0
    segmentor_network: SegmentorKind = "resnet-34"
