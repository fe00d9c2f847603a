"""MetGAN (papers 1 and 2): two MetGen generators in a cycle, two PatchGANs and a frozen segmentor.

F: (x, l) -> y is the network `generator`, G: (y, l) -> x is `inverse`; x anatomy, y tumour image, l label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor, nn

from metgan_dist.errors import UserError
from metgan_dist.methods.image_pool import ImagePool
from metgan_dist.methods.losses import (
    AdversarialForm,
    discriminator_loss,
    full_precision,
    generator_loss,
    l1,
    weighted_cross_entropy,
)
from metgan_dist.methods.method import Batch, Losses, Method, Player
from metgan_dist.methods.segmentor import label_picture, one_versus_rest
from metgan_dist.networks.initialise import initialise
from metgan_dist.networks.metgen import MetGen
from metgan_dist.networks.patchgan import PatchGAN

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe

# Weights of tumour and background pixels when the segmentor judges the generator, 4:1 (methods.md section 1).
POSITIVE, NEGATIVE = 4.0, 1.0
BETAS = (0.5, 0.999)


@dataclass(frozen=True)
class Weights:
    """alpha1 to alpha4 of paper 1's equation 4; a term of weight 0 is not computed.

    The segmentation term is a mean over pixels, not a sum, with weight 1 on background: a segmentor at chance gives
    log 2 there, so alpha3 = 100 starts near 70, where images that are off by 0.3 give 6 for cycle and 6 for pair.
    """

    adversarial: float = 1.0
    cycle: float = 10.0
    segmentation: float = 100.0
    pair: float = 10.0


class MetGAN(Method):
    """Players: `generators` (F and G, one optimiser), then `discriminators` (both domains, one optimiser).

    Args:
        classes: label classes, background included.
        width: multiplier of all channel numbers of generators and discriminators.
        weights: of the loss terms. With weight 0 for `adversarial` there are no discriminators; for `segmentation`, no
            segmentor.
        segmentor: gives logits (N, classes - 1, H, W) of tumour images in [-1, 1]; it is frozen. Needed when its
            weight is not 0.
        adversarial: form of the adversarial loss.
        segmentation_loss: `wbce` weighted binary cross-entropy (paper); `l1` mean |probability - label| (released
            code).
        pool: past fakes per domain that the discriminators are shown; 0 for none.
    """

    inference = ("generator",)
    best = ("mae", "min")

    def __init__(
        self,
        *,
        classes: int = 2,
        width: float = 1.0,
        weights: Weights = Weights(),
        segmentor: nn.Module | None = None,
        adversarial: AdversarialForm = "least-squares",
        segmentation_loss: Literal["wbce", "l1"] = "wbce",
        pool: int = 50,
        learning_rate: float = 2e-4,
        merge_full_resolution: bool = False,
    ) -> None:
        _check(weights, segmentor)
        networks: dict[str, nn.Module] = {
            name: initialise(MetGen(1, classes, width, merge_full_resolution)) for name in ("generator", "inverse")
        }
        pools = {}
        if weights.adversarial:
            for domain in ("tumour", "anatomy"):
                networks[f"discriminator_{domain}"] = initialise(PatchGAN(width=width))
                pools[domain] = ImagePool(pool)
        frozen: tuple[str, ...] = ()
        if weights.segmentation and segmentor is not None:
            networks["segmentor"] = segmentor
            frozen = ("segmentor",)
        super().__init__(networks, frozen=frozen, pools=pools)
        self.classes = classes
        self.weights = weights
        self.adversarial: AdversarialForm = adversarial
        self.segmentation_loss = segmentation_loss
        self.learning_rate = learning_rate

    @classmethod
    def from_recipe(cls, recipe: Recipe, segmentor: nn.Module | None = None) -> Self:
        """MetGAN as the recipe's sections `method`, `data` and `training` describe it."""
        method = recipe.method
        return cls(
            classes=recipe.data.classes,
            width=method.width,
            weights=Weights(method.alpha1, method.alpha2, method.alpha3, method.alpha4),
            segmentor=segmentor,
            adversarial=method.adversarial,
            segmentation_loss=method.segmentation_loss,
            pool=method.pool,
            learning_rate=recipe.training.learning_rate,
            merge_full_resolution=method.merge_full_resolution,
        )

    def players(self) -> tuple[Player, ...]:
        generators = Player("generators", ("generator", "inverse"), self.learning_rate, BETAS)
        if not self.weights.adversarial:
            return (generators,)
        names = ("discriminator_tumour", "discriminator_anatomy")
        return (generators, Player("discriminators", names, self.learning_rate, BETAS))

    def losses(self, player: str, batch: Batch, made: dict[str, Tensor]) -> Losses:
        """Terms adversarial, cycle, segmentation, pair of the generators; tumour, anatomy of the discriminators.

        The generators make `tumour` = F(x, l) and `anatomy` = G(y, l), which the discriminators need.
        """
        if player == "generators":
            return self._generator_losses(batch)
        return self._discriminator_losses(batch, made), {}

    def _generator_losses(self, batch: Batch) -> Losses:
        """Paper 1, equations 1 to 4, each term in both directions but the segmentation, which judges F alone."""
        anatomy, tumour, label = batch["anatomy"], batch["tumour"], batch["label"]
        generator, inverse = self._metgen("generator"), self._metgen("inverse")
        features, inverse_features = generator.encode_label(label), inverse.encode_label(label)
        fake_tumour = generator(anatomy, features)
        fake_anatomy = inverse(tumour, inverse_features)
        weights = self.weights
        terms = {}
        if weights.adversarial:
            judged_tumour = self.networks["discriminator_tumour"](fake_tumour)
            judged_anatomy = self.networks["discriminator_anatomy"](fake_anatomy)
            terms["adversarial"] = weights.adversarial * (
                generator_loss(judged_tumour, self.adversarial) + generator_loss(judged_anatomy, self.adversarial)
            )
        if weights.cycle:
            cycled_anatomy = inverse(fake_tumour, inverse_features)
            cycled_tumour = generator(fake_anatomy, features)
            terms["cycle"] = weights.cycle * (l1(cycled_anatomy, anatomy) + l1(cycled_tumour, tumour))
        if weights.segmentation:
            terms["segmentation"] = weights.segmentation * self._segmentation(fake_tumour, label)
        if weights.pair:
            terms["pair"] = weights.pair * (l1(fake_tumour, tumour) + l1(fake_anatomy, anatomy))
        return terms, {"tumour": fake_tumour.detach(), "anatomy": fake_anatomy.detach()}

    def _discriminator_losses(self, batch: Batch, made: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Paper 1, equation 1, one term per domain, on fakes from the pools.

        Not multiplied by alpha1: Adam takes the same steps whatever the scale, and the values stay comparable between
        runs.
        """
        terms = {}
        for domain in ("tumour", "anatomy"):
            discriminator = self.networks[f"discriminator_{domain}"]
            (fake,) = self.pools[domain].query(made[domain])
            terms[domain] = discriminator_loss(discriminator(batch[domain]), discriminator(fake), self.adversarial)
        return terms

    def _segmentation(self, fake_tumour: Tensor, label: Tensor) -> Tensor:
        logits = full_precision(self.networks["segmentor"](fake_tumour))
        target = one_versus_rest(label, self.classes, logits.dtype)
        if self.segmentation_loss == "l1":
            return l1(logits.sigmoid(), target)
        return weighted_cross_entropy(logits, target, positive=POSITIVE, negative=NEGATIVE)

    @torch.no_grad()
    def translate(self, batch: Batch) -> Tensor:
        """F(x, l): tumour images (N, 1, H, W) in [-1, 1] from `anatomy` and `label`."""
        generator = self._metgen("generator")
        return generator(batch["anatomy"], generator.encode_label(batch["label"]))

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The columns anatomy, label, generated F(x, l), real y, cycled G(F(x, l), l)."""
        generated = self.translate(batch)
        inverse = self._metgen("inverse")
        return {
            "anatomy": batch["anatomy"],
            "label": label_picture(batch["label"], self.classes),
            "generated": generated,
            "real": batch["tumour"],
            "cycled": inverse(generated, inverse.encode_label(batch["label"])),
        }

    def _metgen(self, name: str) -> MetGen:
        network = self.networks[name]
        assert isinstance(network, MetGen)
        return network


def _check(weights: Weights, segmentor: nn.Module | None) -> None:
    if weights.segmentation and segmentor is None:
        raise UserError(
            "method.segmentor: the segmentation loss needs a trained segmentor; name one or set method.alpha3 to 0"
        )
    if not (weights.adversarial or weights.cycle or weights.pair):
        raise UserError(
            "method.alpha1: alpha1, alpha2 and alpha4 are all 0, so the inverse generator has no loss; set one of them"
        )
