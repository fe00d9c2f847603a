"""What SPADE and SEAN have in common: either may have SPADE's variational auto-encoder (Park et al. 2019)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from metgan_dist.methods.adversarial_features import kl_divergence
from metgan_dist.methods.label_to_image import PAPER_FEATURE_WEIGHTS, FeatureWeights
from metgan_dist.methods.latent import FromLatent
from metgan_dist.methods.losses import AdversarialForm, full_precision
from metgan_dist.recipe.methods.terms import LabelToImageRecipe, VaeRecipe

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe


class Variational(FromLatent):
    """A label-to-image GAN whose generator, with `vae`, also takes a latent vector z.

    In training z is drawn from what the network `encoder`, trained with the generator, says of the real image. At
    inference there is no real image, and z is its prior's (`FromLatent`).

    A subclass says what its networks are (`build`), how it uses z in training (`generate`) and at inference
    (`from_label`).

    Args:
        vae: whether there is a z.
        channels: channels of the tumour images.
        classes: label classes, background included.
        edges: edges of the tiles in pixels; needed with `vae`, whose linear layers depend on them.
        width: multiplier of all channel numbers but `latent`.
        latent: numbers of z.
        kl: weight of the Kullback-Leibler divergence, a sum over z and a mean over the batch.
        weights, perceptual, adversarial, learning_rate: see `LabelToImage`.
    """

    def __init__(
        self,
        *,
        vae: bool = False,
        channels: int = 1,
        classes: int = 2,
        edges: Sequence[int] | None = None,
        width: float = 1.0,
        latent: int = 256,
        kl: float = 0.05,
        weights: FeatureWeights = PAPER_FEATURE_WEIGHTS,
        perceptual: nn.Module | None = None,
        adversarial: AdversarialForm = "hinge",
        learning_rate: float = 2e-4,
    ) -> None:
        super().__init__(
            self.build(channels, classes, width=width, latent=latent if vae else None, edges=edges),
            classes=classes,
            weights=weights,
            perceptual=perceptual,
            adversarial=adversarial,
            learning_rate=learning_rate,
        )
        self.vae, self.latent, self.kl = vae, latent if vae else 0, kl

    @classmethod
    @abstractmethod
    def build(
        cls, channels: int, classes: int, *, width: float, latent: int | None, edges: Sequence[int] | None
    ) -> dict[str, nn.Module]:
        """The initialised networks: `generator`, with `latent` `encoder`, and `discriminator`, further ones between.

        Raises ValueError for a latent vector without `edges`.
        """

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, segmentor: nn.Module | None = None, perceptual: nn.Module | None = None
    ) -> Self:
        """As the sections `method`, `data`, `tiles` and `training` describe it; a VAE where `method` has its fields."""
        method = LabelToImageRecipe.of(recipe.method)
        vae = method if isinstance(method, VaeRecipe) else None
        return cls(
            vae=vae is not None,
            channels=recipe.data.channel_numbers[1],
            classes=recipe.data.classes,
            edges=recipe.tiles.shape,
            width=method.width,
            latent=vae.latent if vae else 0,
            kl=vae.kl if vae else 0.0,
            weights=FeatureWeights(method.feature_matching, method.perceptual),
            perceptual=perceptual,
            adversarial=method.adversarial,
            learning_rate=recipe.training.learning_rate,
        )

    @classmethod
    def loss_weights(cls, recipe: Recipe) -> tuple[str, ...]:
        """Those of `LabelToImage`, and `kl` of a VAE."""
        return super().loss_weights(recipe) + (("kl",) if isinstance(recipe.method, VaeRecipe) else ())

    def encode(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """z (N, latent) of tumour images, drawn as the encoder says, and the weighted term `kl` unless its weight is 0.

        Draws from torch's global random state.
        """
        mean, log_variance = (full_precision(part) for part in self.networks["encoder"](image))
        # Reparametrised, so that the gradient reaches mean and variance through the draw; half a log-variance is the
        # logarithm of a standard deviation.
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return z, {"kl": self.kl * kl_divergence(mean, log_variance)} if self.kl else {}
