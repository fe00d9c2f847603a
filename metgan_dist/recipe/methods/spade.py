"""SPADE, with its variational auto-encoder (Park et al. 2019), and the smaller one of paper 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from metgan_dist.recipe.methods.terms import LabelToImageRecipe, LatentNumbers, PerceptualWeight, VaeRecipe


class SpadeRecipe(LabelToImageRecipe):
    """From the label alone."""

    name: Literal["spade"] = "spade"


class SpadeVaeRecipe(VaeRecipe, LabelToImageRecipe):
    """From the label and a latent vector."""

    variant_of: ClassVar[str | None] = "spade"

    name: Literal["spade_vae"] = "spade_vae"


class SpadeStrokeRecipe(LabelToImageRecipe):
    """From the label map and a latent vector that no encoder learns (Platscher et al. 2020)."""

    paper_training: ClassVar[Mapping[str, Any]] = {"batch_size": 8}

    name: Literal["spade_stroke"] = "spade_stroke"
    latent: LatentNumbers = 128
    perceptual: PerceptualWeight = 0.0
