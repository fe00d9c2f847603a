"""The lesion mask GAN of paper 4: a Wasserstein GAN with gradient penalty (Gulrajani et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from metgan_dist.recipe.method import MethodRecipe


class LesionWGANRecipe(MethodRecipe):
    """Masks from latent vectors; no images, so none of its segmentors.

    The learning rate, and a rate that stays, are Gulrajani et al.'s: paper 4 names batch and epochs alone.
    """

    paper_training: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 1e-4,
        "decay_from": 1.0,
        "batch_size": 8,
        "epochs": 500,
        "augment": False,
    }

    name: Literal["lesion_wgan"] = "lesion_wgan"
    penalty: float = Field(10.0, ge=0, description="weight of the critic's gradient penalty")
    critic_moves: int = Field(5, ge=1, description="steps of the critic to one of the generator")
    latent: int = Field(128, ge=1, description="numbers in the latent vector")
