"""Paper 4's Pix2Pix: diffusion-weighted slices from label maps alone (Platscher et al. 2020, section 2.2.1, A.2).

The generator is given the one-hot label map and no image. Equation 1 writes its discriminator D(y), of the image alone;
Pix2Pix (Isola et al. 2017), which the appendix follows, shows it the label map, too, and so it is here: without,
nothing but the L1 term would say that a lesion is to be where its label is.

The appendix has dropout at every stage of the decoder and no rate. At Pix2Pix's 0.5 images are worse at inference than
in training: each InstanceNorm follows a dropout, and without the noise it divides by less. At 0.2 they are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from metgan_dist.errors import UserError
from metgan_dist.methods.label_to_image import label_columns
from metgan_dist.methods.losses import AdversarialForm, discriminator_loss, generator_loss, judged_together, l1
from metgan_dist.methods.metgan import BETAS
from metgan_dist.methods.method import Batch, Best, Losses, Method, Player
from metgan_dist.networks.initialise import initialise
from metgan_dist.networks.patchgan import STROKE, PatchGAN, shortest_edge
from metgan_dist.networks.spade import one_hot_label
from metgan_dist.networks.unet_256 import LEAST_DOWNS, UNet256, downs_of
from metgan_dist.recipe.methods.pix2pix import Pix2PixStrokeRecipe

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe


class Pix2PixStroke(Method):
    """Players: `discriminator` at half its loss, then `generator`, as Pix2Pix was released.

    Args:
        channels: of the tumour images, which are what is drawn.
        classes: label classes, background included: channels of the generator's input.
        edges: (H, W) of the images, by which the generator halves.
        width: multiplier of all channel numbers.
        adversarial_weight: of the generator's adversarial term; with 0 there is no discriminator.
        pair: weight of the L1 term, the paper's lambda.
        adversarial: form of the adversarial loss.
        dropout: share of the features that each stage of the decoder drops.
        stochastic_inference: keep the dropout on when images are made.
    """

    inference = ("generator",)
    task = "label_to_image"
    of_tissue = True

    def __init__(
        self,
        *,
        channels: int = 1,
        classes: int = 2,
        edges: Sequence[int] = (128, 128),
        width: float = 1.0,
        adversarial_weight: float = 1.0,
        pair: float = 10.0,
        adversarial: AdversarialForm = "log",
        dropout: float = 0.2,
        stochastic_inference: bool = False,
        learning_rate: float = 2e-4,
    ) -> None:
        _check(adversarial_weight, pair)
        generator = UNet256(
            classes,
            channels,
            width=width,
            downs=downs_of(*edges),
            stochastic=stochastic_inference,
            resizing=True,
            dropout=dropout,
        )
        networks = {"generator": initialise(generator)}
        if adversarial_weight:
            patchgan = PatchGAN(channels, condition_channels=classes, width=width, **STROKE)
            networks["discriminator"] = initialise(patchgan)
        super().__init__(networks)
        self.classes, self.adversarial_weight, self.pair = classes, adversarial_weight, pair
        self.adversarial: AdversarialForm = adversarial
        self.learning_rate = learning_rate
        self.makes_ahead = bool(adversarial_weight)

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, segmentor: nn.Module | None = None, perceptual: nn.Module | None = None
    ) -> Self:
        """As the sections `method`, `data`, `tiles` and `training` describe it."""
        method = Pix2PixStrokeRecipe.of(recipe.method)
        return cls(
            channels=recipe.data.channel_numbers[1],
            classes=recipe.data.classes,
            edges=recipe.tiles.shape,
            width=method.width,
            adversarial_weight=method.alpha1,
            pair=method.alpha4,
            adversarial=method.adversarial,
            dropout=method.dropout,
            stochastic_inference=method.stochastic_inference,
            learning_rate=recipe.training.learning_rate,
        )

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """UserError for no loss."""
        method = Pix2PixStrokeRecipe.of(recipe.method)
        _check(method.alpha1, method.alpha4)

    @classmethod
    def divisor(cls, recipe: Recipe) -> int:
        """The generator has as many downs as the size allows, but five."""
        return 2**LEAST_DOWNS

    @classmethod
    def least_edge(cls, recipe: Recipe) -> int:
        """The generator's, which is more than the discriminator's."""
        return max(cls.divisor(recipe), shortest_edge(STROKE["layers"], STROKE["unstrided"]))

    @classmethod
    def criterion(cls, recipe: Recipe) -> Best:
        """`mae`: its L1 term compares with the real image of the same label map."""
        return "mae", "min"

    @classmethod
    def loss_weights(cls, recipe: Recipe) -> tuple[str, ...]:
        """`alpha1` and `alpha4`."""
        return ("alpha1", "alpha4")

    def players(self) -> tuple[Player, ...]:
        """The discriminator, unless its weight is 0, then the generator; one rate for both."""
        generator = Player("generator", ("generator",), self.learning_rate, BETAS)
        if "discriminator" not in self.networks:
            return (generator,)
        return (Player("discriminator", ("discriminator",), self.learning_rate, BETAS), generator)

    def ahead(self, batch: Batch) -> dict[str, Tensor]:
        """The image of the batch's label map, which first the discriminator sees and then the generator learns from."""
        return {"tumour": self._generated(batch)}

    def losses(self, player: str, batch: Batch, made: dict[str, Tensor]) -> Losses:
        """Terms adversarial and pair of the generator (equation 1); half the discriminator's loss as its tumour."""
        if player == "generator":
            return self._generator_losses(batch, made)
        if made:
            fake = made["tumour"].detach()
        else:
            with torch.no_grad():
                fake = self._generated(batch)
        label = self._label(batch)
        real_logits, fake_logits = judged_together(
            self.networks["discriminator"], (batch["tumour"], label), (fake, label)
        )
        return {"tumour": 0.5 * discriminator_loss(real_logits, fake_logits, self.adversarial)}, {}

    def _generator_losses(self, batch: Batch, made: dict[str, Tensor]) -> Losses:
        fake = made["tumour"] if "tumour" in made else self._generated(batch)
        terms = {}
        if self.adversarial_weight:
            judged = self.networks["discriminator"](fake, self._label(batch))
            terms["adversarial"] = self.adversarial_weight * generator_loss(judged, self.adversarial)
        if self.pair:
            terms["pair"] = self.pair * l1(fake, batch["tumour"])
        return terms, {"tumour": fake.detach()}

    def _label(self, batch: Batch) -> Tensor:
        return one_hot_label(batch["label"], self.classes, next(self.parameters()).dtype)

    def _generated(self, batch: Batch) -> Tensor:
        return self.networks["generator"](self._label(batch))

    @torch.no_grad()
    def translate(self, batch: Batch) -> Tensor:
        """Tumour images (N, C, H, W) in [-1, 1] from `label` alone."""
        return self._generated(batch)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The columns anatomy (not an input) where the batch has one, label, generated, real."""
        return label_columns(batch, self.classes, self.translate(batch))


def _check(adversarial: float, pair: float) -> None:
    if not (adversarial or pair):
        raise UserError("method.alpha1: both alpha1 and alpha4 are 0, so the generator has no loss; set one of them")
