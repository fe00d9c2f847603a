"""SEAN (Zhu et al. 2020), and with SPADE's variational auto-encoder."""

from __future__ import annotations

from typing import ClassVar, Literal

from metgan_dist.recipe.methods.terms import LabelToImageRecipe, VaeRecipe


class SeanRecipe(LabelToImageRecipe):
    """From the label and the styles of its regions."""

    name: Literal["sean"] = "sean"


class SeanVaeRecipe(VaeRecipe, LabelToImageRecipe):
    """From the label, the styles of its regions and a latent vector."""

    variant_of: ClassVar[str | None] = "sean"

    name: Literal["sean_vae"] = "sean_vae"
