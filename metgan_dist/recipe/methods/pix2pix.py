"""Pix2Pix (Isola et al. 2017), with MetGAN's segmentor beside it (rows of paper 1's table 2), and that of paper 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from metgan_dist.recipe.method import MethodRecipe
from metgan_dist.recipe.methods.rows import Backbone, PairRecipe, RowRecipe, SegmentationRecipe
from metgan_dist.recipe.methods.terms import (
    AdversarialForm,
    AdversarialWeight,
    PairWeight,
    Pool,
    StochasticInference,
)


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


class Pix2PixStrokeRecipe(MethodRecipe):
    """From the label map alone (Platscher et al. 2020); the paper tries alpha4 10 and 100."""

    paper_training: ClassVar[Mapping[str, Any]] = {"batch_size": 8}

    name: Literal["pix2pix_stroke"] = "pix2pix_stroke"
    alpha1: AdversarialWeight = 1.0
    alpha4: PairWeight = 10.0
    adversarial: AdversarialForm = "log"
    dropout: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of the features that each stage of the generator's decoder drops (its paper names none)",
    )
    stochastic_inference: StochasticInference = False
