"""Paper 4's SPADE: diffusion-weighted slices from label maps and a latent vector (Platscher et al. 2020, A.3).

z is drawn anew for each image in training, from N(0, 1); there is no encoder. The paper says nothing of the losses but
that the discriminator is the PatchGAN of all its translators, and that the design is SPADE's: hinge and feature
matching it is here, without the perceptual loss unless a recipe gives it a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from metgan_dist.methods.label_to_image import FeatureWeights
from metgan_dist.methods.latent import FromLatent
from metgan_dist.methods.losses import AdversarialForm
from metgan_dist.methods.method import Batch
from metgan_dist.networks.initialise import initialise_xavier
from metgan_dist.networks.patchgan import STROKE, PatchGANFeatures
from metgan_dist.networks.spade_generator import STROKE as LAYOUT
from metgan_dist.networks.spade_generator import SpadeGenerator
from metgan_dist.recipe.methods.spade import SpadeStrokeRecipe

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe

STROKE_WEIGHTS = FeatureWeights(feature_matching=10.0, perceptual=0.0)


class SpadeStroke(FromLatent):
    """One generator from label map and z, which has five blocks where SPADE's has seven, an eighth as wide.

    Args:
        channels: of the tumour images, which are what is drawn.
        classes: label classes, background included.
        edges: of the images, on which the first, linear layer depends.
        width: multiplier of all channel numbers but `latent`.
        latent: numbers of z.
        weights, perceptual, adversarial, learning_rate: see `LabelToImage`.
    """

    of_tissue = True

    def __init__(
        self,
        *,
        channels: int = 1,
        classes: int = 2,
        edges: Sequence[int] = (128, 128),
        width: float = 1.0,
        latent: int = 128,
        weights: FeatureWeights = STROKE_WEIGHTS,
        perceptual: nn.Module | None = None,
        adversarial: AdversarialForm = "hinge",
        learning_rate: float = 2e-4,
    ) -> None:
        networks = {
            "generator": SpadeGenerator(channels, classes, width=width, latent=latent, edges=edges, layout=LAYOUT),
            "discriminator": PatchGANFeatures(channels, condition_channels=classes, width=width, **STROKE),
        }
        super().__init__(
            {name: initialise_xavier(network) for name, network in networks.items()},
            classes=classes,
            weights=weights,
            perceptual=perceptual,
            adversarial=adversarial,
            learning_rate=learning_rate,
        )
        self.latent = latent

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, segmentor: nn.Module | None = None, perceptual: nn.Module | None = None
    ) -> Self:
        """As the sections `method`, `data`, `tiles` and `training` describe it."""
        method = SpadeStrokeRecipe.of(recipe.method)
        return cls(
            channels=recipe.data.channel_numbers[1],
            classes=recipe.data.classes,
            edges=recipe.tiles.shape,
            width=method.width,
            latent=method.latent,
            weights=FeatureWeights(method.feature_matching, method.perceptual),
            perceptual=perceptual,
            adversarial=method.adversarial,
            learning_rate=recipe.training.learning_rate,
        )

    def generate(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Images of `label`, each at a z of its own, drawn from torch's global random state; no further terms."""
        label = batch["label"]
        return self.from_label(label, torch.randn(len(label), self.latent, device=label.device)), {}

    def from_label(self, label: Tensor, z: Tensor | None) -> Tensor:
        """Straight from the generator; see `FromLatent.from_label`."""
        return self.networks["generator"](label, z)
