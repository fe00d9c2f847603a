"""Pix2Pix (Isola et al. 2017), and with MetGAN's segmentor beside it (rows of paper 1's table 2)."""

from __future__ import annotations

from typing import ClassVar, Literal

from metgan_dist.recipe.methods.rows import Backbone, PairRecipe, RowRecipe, SegmentationRecipe
from metgan_dist.recipe.methods.terms import AdversarialForm, PairWeight, Pool


class OwnTerms(PairRecipe, RowRecipe):
    """Its paper's values."""

    backbone: Backbone = "unet-256"
    adversarial: AdversarialForm = "log"
    pool: Pool = 0
    alpha4: PairWeight = 100.0


class Pix2PixRecipe(OwnTerms):
    """As published."""

    name: Literal["pix2pix"] = "pix2pix"


class Pix2PixSegRecipe(SegmentationRecipe, OwnTerms):
    """With the segmentor."""

    variant_of: ClassVar[str | None] = "pix2pix"

    name: Literal["pix2pix_seg"] = "pix2pix_seg"
