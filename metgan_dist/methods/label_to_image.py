"""Label-to-image GANs: what SPADE (Park et al. 2019), SEAN (Zhu et al. 2020) and RedGAN have in common.

One generator makes the tumour image from the label; a multi-scale discriminator sees label and image. The anatomy image
is not an input, which is why the MetGAN paper finds these methods' backgrounds poor (paper 1, section 4.2).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from metgan_dist.errors import UserError
from metgan_dist.methods.adversarial_features import (
    feature_matching,
    multiscale_discriminator_loss,
    multiscale_generator_loss,
    perceptual_loss,
    split_fake_and_real,
)
from metgan_dist.methods.losses import AdversarialForm
from metgan_dist.methods.method import Batch, Best, Losses, Method, Player
from metgan_dist.methods.segmentor import label_picture
from metgan_dist.networks.spade import one_hot_label
from metgan_dist.networks.spade_generator import DIVISOR
from metgan_dist.recipe.methods.terms import LabelToImageRecipe

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe

# Adam without momentum, as released (Park et al. 2019).
BETAS = (0.0, 0.9)
# Two-time-scale rule: base rate 2e-4 gives the generator 1e-4 and the discriminator 4e-4.
GENERATOR_RATE, DISCRIMINATOR_RATE = 0.5, 2.0


@dataclass(frozen=True)
class FeatureWeights:
    """Weights beside the adversarial term's 1; a term of weight 0 is not computed."""

    feature_matching: float = 10.0
    perceptual: float = 10.0


PAPER_FEATURE_WEIGHTS = FeatureWeights()


class LabelToImage(Method):
    """Players: `generator`, then `discriminator`.

    In 2D, as the three are published; the network of the perceptual loss knows photographs.

    A subclass builds the networks and says how images are generated (`generate`, `translate`) and, where it is more
    than the image, what the discriminator sees of them (`shown`).

    Args:
        networks: `generator`, `discriminator`, and others by name. Those not in `frozen` are trained together with the
            generator, so each must take part in `generate`.
        classes: label classes, background included.
        perceptual: gives the five VGG19 features of images in [-1, 1]; kept as `vgg`, frozen, and not saved with
            checkpoints. None where the perceptual weight is 0 or nothing is trained.
        adversarial: form of the adversarial loss; hinge in all three publications.
        learning_rate: the base rate; the generator learns at half of it, the discriminator at twice.
        frozen: names of further networks that no player trains.
    """

    inference: tuple[str, ...] = ("generator",)
    task = "label_to_image"

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        *,
        classes: int,
        weights: FeatureWeights = PAPER_FEATURE_WEIGHTS,
        perceptual: nn.Module | None = None,
        adversarial: AdversarialForm = "hinge",
        learning_rate: float = 2e-4,
        frozen: tuple[str, ...] = (),
    ) -> None:
        published = {"vgg": perceptual} if perceptual is not None and weights.perceptual else {}
        super().__init__({**networks, **published}, frozen=(*frozen, *published), unsaved=tuple(published))
        self.classes = classes
        self.weights = weights
        self.adversarial: AdversarialForm = adversarial
        self.learning_rate = learning_rate

    @classmethod
    def criterion(cls, recipe: Recipe) -> Best:
        """Label fidelity: these methods never see the anatomy, so no pixel of the background can be right."""
        return "label_fidelity", "max"

    @classmethod
    def divisor(cls, recipe: Recipe) -> int:
        """SPADE's trunk begins at 1/32 of the edges."""
        return DIVISOR

    @classmethod
    def fewest_values(cls, recipe: Recipe, edges: Sequence[int]) -> int | None:
        """Those of the trunk's first features."""
        return math.prod(edge // DIVISOR for edge in edges)

    @classmethod
    def loss_weights(cls, recipe: Recipe) -> tuple[str, ...]:
        """`feature_matching`, and `perceptual` unless it is 0: any other weight needs VGG19."""
        return ("feature_matching",) + (("perceptual",) if LabelToImageRecipe.of(recipe.method).perceptual else ())

    @classmethod
    def needs(cls, recipe: Recipe) -> frozenset[str]:
        """VGG19 where `method.perceptual` is above 0."""
        return frozenset({"vgg19"} if LabelToImageRecipe.of(recipe.method).perceptual else ())

    def players(self) -> tuple[Player, ...]:
        """The generator, with all that is trained beside it, then the discriminator at four times its rate."""
        makers = tuple(name for name in self.networks if name not in ("discriminator", *self.frozen))
        return (
            Player("generator", makers, GENERATOR_RATE * self.learning_rate, BETAS),
            Player("discriminator", ("discriminator",), DISCRIMINATOR_RATE * self.learning_rate, BETAS),
        )

    @abstractmethod
    def generate(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Images (N, C, H, W) in [-1, 1] as they are made in training, and further weighted terms of the generator."""

    def shown(self, image: Tensor, batch: Batch) -> Tensor:
        """What the discriminator sees, beside the label, of a generated or real image (N, C, H, W)."""
        return image

    def losses(self, player: str, batch: Batch, made: dict[str, Tensor]) -> Losses:
        """Terms adversarial, feature_matching, perceptual and those of `generate`; adversarial of the discriminator.

        The generator makes `tumour`, on which the discriminator then learns. The released codes generate it anew with
        the generator just updated, at the price of one more forward pass.
        """
        if player == "generator":
            return self._generator_losses(batch)
        # Both in one batch: two calls would see two weights, since each takes the power iteration of the spectral
        # norms one step further.
        label = one_hot_label(batch["label"], self.classes, made["tumour"].dtype)
        seen = torch.cat([self.shown(made["tumour"], batch), self.shown(batch["tumour"], batch)])
        fake, real = split_fake_and_real(self.networks["discriminator"](seen, torch.cat([label, label])))
        return {"adversarial": multiscale_discriminator_loss(real, fake, self.adversarial)}, {}

    def _generator_losses(self, batch: Batch) -> Losses:
        image, further = self.generate(batch)
        fake, real = self._compare(image, batch)
        weights = self.weights
        terms = {"adversarial": multiscale_generator_loss(fake, self.adversarial)}
        if weights.feature_matching:
            terms["feature_matching"] = weights.feature_matching * feature_matching(fake, real)
        if weights.perceptual:
            terms["perceptual"] = weights.perceptual * perceptual_loss(self._vgg(), image, batch["tumour"])
        return {**terms, **further}, {"tumour": image.detach()}

    def _compare(self, image: Tensor, batch: Batch) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """The discriminator's features of generated images, and of real ones as a target without gradients."""
        label = one_hot_label(batch["label"], self.classes, image.dtype)
        discriminator = self.networks["discriminator"]
        # Cached, so that both calls see the same weight: the norm's power iteration runs once. In one batch the
        # gradient would be worked out for the real half too, to nobody's use.
        with parametrize.cached():
            with torch.no_grad():
                real = discriminator(self.shown(batch["tumour"], batch), label)
            return discriminator(self.shown(image, batch), label), real

    def _vgg(self) -> nn.Module:
        if "vgg" not in self.networks:
            raise UserError("method.perceptual: the perceptual loss needs VGG19's weights; set it to 0 to go without")
        return self.networks["vgg"]

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The columns anatomy (not an input) where the batch has one, label, generated, real."""
        return label_columns(batch, self.classes, self.translate(batch))


def label_columns(batch: Batch, classes: int, generated: Tensor) -> dict[str, Tensor]:
    """What a method that draws images from labels shows of a batch: anatomy where there is one, label, both images."""
    return {
        **({"anatomy": batch["anatomy"]} if "anatomy" in batch else {}),
        "label": label_picture(batch["label"], classes),
        "generated": generated,
        "real": batch["tumour"],
    }
