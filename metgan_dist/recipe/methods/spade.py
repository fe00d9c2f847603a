"""SPADE, and SPADE with its variational auto-encoder (Park et al. 2019)."""

from __future__ import annotations

from typing import ClassVar, Literal

from metgan_dist.recipe.methods.terms import LabelToImageRecipe, VaeRecipe


class SpadeRecipe(LabelToImageRecipe):
    """From the label alone."""

    name: Literal["spade"] = "spade"


class SpadeVaeRecipe(VaeRecipe, LabelToImageRecipe):
    """From the label and a latent vector."""

    variant_of: ClassVar[str | None] = "spade"

    name: Literal["spade_vae"] = "spade_vae"
