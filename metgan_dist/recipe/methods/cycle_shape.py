"""Cycle- and shape-consistency GAN (Zhang et al. 2018, equation 4)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from metgan_dist.recipe.method import MethodRecipe
from metgan_dist.recipe.methods.terms import AdversarialForm, AdversarialWeight, CycleWeight, Pool


class CycleShapeRecipe(MethodRecipe):
    """Both directions, each with a segmentor of its own."""

    name: Literal["cycle_shape"] = "cycle_shape"
    alpha1: AdversarialWeight = 1.0
    alpha2: CycleWeight = 10.0
    shape: float = Field(
        1.0, ge=0, description="weight of the shape consistency (cross-entropy); 0: translation without it"
    )
    adversarial: AdversarialForm = "least-squares"
    pool: Pool = 50
    from_scratch: bool = Field(
        False, description="train all players together from the start, for training.epochs, instead of in stages"
    )
    synthetic: Literal["online", "offline", "none"] = Field(
        "online",
        description="what its segmentors learn from beside real volumes in its last two stages: what the generators "
        "make while they learn, too (its paper); what finished ones make (the paper's baseline ADA); or nothing",
    )
