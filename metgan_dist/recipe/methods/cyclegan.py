"""CycleGAN (Zhu et al. 2017), and with MetGAN's segmentor beside it (rows of paper 1's table 2)."""

from __future__ import annotations

from typing import ClassVar, Literal

from metgan_dist.recipe.methods.rows import Backbone, CycleRecipe, RowRecipe, SegmentationRecipe
from metgan_dist.recipe.methods.terms import IdentityWeight


class OwnTerms(CycleRecipe, RowRecipe):
    """Its paper's values, with the U-Net of paper 1."""

    backbone: Backbone = "unet-256"
    identity: IdentityWeight = 5.0


class CycleGANRecipe(OwnTerms):
    """As published."""

    name: Literal["cyclegan"] = "cyclegan"


class CycleGANSegRecipe(SegmentationRecipe, OwnTerms):
    """With the segmentor."""

    variant_of: ClassVar[str | None] = "cyclegan"

    name: Literal["cyclegan_seg"] = "cyclegan_seg"
