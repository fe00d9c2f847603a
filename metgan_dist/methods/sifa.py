"""SIFA, version 2 (Chen et al., TMI 2020): unpaired domain adaptation of a segmentation, by images and by features.

The anatomy images x, with their labels l, are the source domain; the tumour images y are the target domain. SIFA is
unpaired: although batches may hold x and y of the same tissue, no term compares the one with the other, and l is never
held against y.

A generator g_A turns x into a tumour-like image. An encoder reads tumour-like images, real and generated ones; a
decoder turns its deep features into an anatomy-like image, and two heads, on deep and on shallower features, segment.
So the encoder learns to segment y from the labels of x. Four discriminators close the gap between the domains: on
tumour-like images, on anatomy-like images (with an auxiliary second question), and on the logits of either head.

The players in their order; `gan` is least squares by default, `cycle` is |x'' - x| + |y'' - y|:

    player        trains                 minimises
    g_A           generator              gan(d_B on g_A(x)) + 10 cycle
    d_B           discriminator_tumour   y is real, g_A(x) is not
    segmentation  encoder, both heads    CE + Dice of g_A(x) against l + 0.1 x the same of the shallower head
                                         + 0.1 (gan(d_A on y') + 10 cycle) + 0.1 gan(d_A's auxiliary output on y')
                                         + 0.1 gan(d_P on y's logits) + 0.01 gan(d_P2 on y's shallower logits)
    decoder       decoder                gan(d_A on y') + 10 cycle
    d_A           discriminator_anatomy  x is real, y' is not; auxiliary: x'' comes from x, y' does not
    d_P           discriminator_deep     logits of g_A(x) are real, those of y are not
    d_P2          discriminator_shallow  the same of the shallower head

with y' = decode(encode(y)), x'' = decode(encode(g_A(x))) and y'' = g_A(y'). The generator has no share in segmentation,
auxiliary and logits terms: it is to change appearance alone, and what makes features alike is the encoder's task.

In paper 1 SIFA is a baseline for image synthesis (table 1): its output is g_A(x). The label is no input of it; it
enters the training alone, where it reaches g_A only through the encoder inside the cycle. Tumours are where g_A puts
them, laid over an anatomy that its residual output retains (section 4.2). What SIFA itself is for is `segment`.

Not taken over from the release: weight decay on encoder and heads, and a first moment of 0.9 for their optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from metgan_dist.errors import UserError
from metgan_dist.methods.image_pool import ImagePool
from metgan_dist.methods.losses import (
    AdversarialForm,
    discriminator_loss,
    full_precision,
    generator_loss,
    judged_together,
    l1,
    segmentation_loss,
)
from metgan_dist.methods.method import Batch, Best, Losses, Method, Player
from metgan_dist.methods.segmentor import label_picture
from metgan_dist.networks.initialise import initialise
from metgan_dist.networks.patchgan import PatchGAN, shortest_edge
from metgan_dist.networks.sifa import AuxiliaryPatchGAN, Decoder, Encoder, Features, ResidualResNet9, SegmentationHead
from metgan_dist.recipe.methods.sifa import SIFARecipe

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe

# For all seven players (Chen et al. 2020).
BETAS = (0.5, 0.999)
DEPTHS = ("deep", "shallow")
PLAYERS = {
    "g_A": ("generator",),
    "d_B": ("discriminator_tumour",),
    "segmentation": ("encoder", "head_deep", "head_shallow"),
    "decoder": ("decoder",),
    "d_A": ("discriminator_anatomy",),
    "d_P": ("discriminator_deep",),
    "d_P2": ("discriminator_shallow",),
}


@dataclass(frozen=True)
class SIFALossWeights:
    """Weights of the terms beside cross-entropy + Dice of the deep head, whose weight is 1.

    `adversarial` and `cycle` are those of generator and decoder; the encoder's share of both is `translation` of that.
    """

    adversarial: float = 1.0
    cycle: float = 10.0
    translation: float = 0.1
    shallow: float = 0.1
    auxiliary: float = 0.1
    logits: float = 0.1
    shallow_logits: float = 0.01


class SIFA(Method):
    """Players: g_A, d_B, segmentation, decoder, d_A, d_P, d_P2, as in the module's table.

    Args:
        classes: label classes, background included.
        channels: of anatomy and of tumour images alike, since either translation adds to the image.
        width: multiplier of all channel numbers.
        weights: of the loss terms.
        adversarial: form of the adversarial losses.
        pool: past fakes per domain that d_A and d_B are shown; 0 for none.

    2D, as its release is. Image edges must be multiples of 8.
    """

    task = "unpaired"
    inference = ("generator",)
    translates_back = True
    segments = ("tumour",)

    def __init__(
        self,
        *,
        classes: int = 2,
        channels: int = 1,
        width: float = 1.0,
        weights: SIFALossWeights = SIFALossWeights(),
        adversarial: AdversarialForm = "least-squares",
        pool: int = 50,
        learning_rate: float = 2e-4,
    ) -> None:
        encoder = Encoder(channels, width=width)
        networks: dict[str, nn.Module] = {
            "generator": ResidualResNet9(channels, width=width),
            "encoder": encoder,
            "decoder": Decoder(encoder.features, channels, width=width),
            "head_deep": SegmentationHead(encoder.features, classes),
            "head_shallow": SegmentationHead(encoder.features, classes),
            "discriminator_tumour": PatchGAN(channels, width=width),
            "discriminator_anatomy": AuxiliaryPatchGAN(channels, width=width),
            "discriminator_deep": PatchGAN(classes, width=width),
            "discriminator_shallow": PatchGAN(classes, width=width),
        }
        for name, network in networks.items():
            # Two deviations, as released: smaller where features are learned than where images are made.
            initialise(network, 0.01 if name in PLAYERS["segmentation"] else 0.02)
        super().__init__(networks, pools={domain: ImagePool(pool) for domain in ("tumour", "anatomy")})
        self.classes = classes
        self.weights = weights
        self.adversarial: AdversarialForm = adversarial
        self.learning_rate = learning_rate

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, segmentor: nn.Module | None = None, perceptual: nn.Module | None = None
    ) -> Self:
        """SIFA as the recipe's sections `method`, `data` and `training` describe it; it learns its own segmentation."""
        cls.check(recipe)
        method = SIFARecipe.of(recipe.method)
        return cls(
            classes=recipe.data.classes,
            channels=recipe.data.channel_numbers[0],
            width=method.width,
            weights=SIFALossWeights(adversarial=method.alpha1, cycle=method.alpha2),
            adversarial=method.adversarial,
            pool=method.pool,
            learning_rate=recipe.training.learning_rate,
        )

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """UserError for different numbers of channels: both translations are changes to the image (see `networks`)."""
        anatomy, tumour = recipe.data.channel_numbers
        if anatomy != tumour:
            raise UserError(
                f"method.name: sifa adds to the image that it translates, so data.anatomy ({anatomy} channel(s)) and "
                f"data.tumour ({tumour}) need equally many; use another method, such as metgan"
            )

    @classmethod
    def divisor(cls, recipe: Recipe) -> int:
        """The encoder's three max-poolings."""
        return Encoder.divisor

    @classmethod
    def least_edge(cls, recipe: Recipe) -> int:
        """The discriminators' 24."""
        return shortest_edge()

    @classmethod
    def fewest_values(cls, recipe: Recipe, edges: Sequence[int]) -> int | None:
        """Those of the encoder's features."""
        return math.prod(edge // Encoder.divisor for edge in edges)

    @classmethod
    def criterion(cls, recipe: Recipe) -> Best:
        """The cycle's error: an unpaired method may not look at pairs."""
        return "cycle_mae", "min"

    @classmethod
    def unpaired(cls, recipe: Recipe) -> bool:
        """Always: x and y are of two domains, and labels are those of x."""
        return True

    @classmethod
    def loss_weights(cls, recipe: Recipe) -> tuple[str, ...]:
        """Adversarial and cycle; the other `Weights` are the release's and no fields of a recipe."""
        return ("alpha1", "alpha2")

    def players(self) -> tuple[Player, ...]:
        """The seven of the module's table, all with the same rate and betas."""
        return tuple(Player(name, networks, self.learning_rate, BETAS) for name, networks in PLAYERS.items())

    def losses(self, player: str, batch: Batch, made: dict[str, Tensor]) -> Losses:
        """The terms of the module's table.

        Each image is made once a step and handed on: `tumour` = g_A(x), `anatomy` = y', `cycled` = x'', and the logits
        `deep_source`, `deep_target`, `shallow_source`, `shallow_target` of g_A(x) and y. So a player sees what the
        players before it made in their turn, not what they would make after it.
        """
        match player:
            case "g_A":
                return self._generator_losses(batch)
            case "d_B":
                return self._tumour_discriminator_losses(batch, made), {}
            case "segmentation":
                return self._segmentation_losses(batch, made)
            case "decoder":
                return self._decoder_losses(batch, made)
            case "d_A":
                return self._anatomy_discriminator_losses(batch, made), {}
            case "d_P":
                return self._logits_discriminator_losses("deep", made), {}
            case "d_P2":
                return self._logits_discriminator_losses("shallow", made), {}
        raise ValueError(f"no player {player!r}; players: {', '.join(PLAYERS)}")

    def _generator_losses(self, batch: Batch) -> Losses:
        """x is translated so that it passes as a tumour image, and so that decoding it brings x back."""
        anatomy, tumour = batch["anatomy"], batch["tumour"]
        fake_tumour = self.networks["generator"](anatomy)
        with torch.no_grad():  # the generator has no part in it
            fake_anatomy = self._decode(tumour)
        judged = self.networks["discriminator_tumour"](fake_tumour)
        terms = {
            "adversarial": self.weights.adversarial * generator_loss(judged, self.adversarial),
            "cycle": self.weights.cycle * self._cycle(self._decode(fake_tumour), fake_anatomy, batch),
        }
        return terms, {"tumour": fake_tumour.detach()}

    def _segmentation_losses(self, batch: Batch, made: dict[str, Tensor]) -> Losses:
        """The encoder segments what was translated from labelled images, while its features lose their domain.

        Three discriminators tell it where they differ: in the images decoded from them (d_A), and in the segmentations
        at both depths (d_P, d_P2).
        """
        tumour, fake_tumour, label = batch["tumour"], made["tumour"], batch["label"]
        encoder, decoder = self.networks["encoder"], self.networks["decoder"]
        source, target = encoder(fake_tumour), encoder(tumour)
        cycled_anatomy, fake_anatomy = decoder(source.deep, fake_tumour), decoder(target.deep, tumour)
        translation, auxiliary = self._translation_terms(fake_anatomy, cycled_anatomy, batch)
        logits = {"source": self._logits(source, fake_tumour), "target": self._logits(target, tumour)}
        judged = {depth: self.networks[f"discriminator_{depth}"](logits["target"][depth]) for depth in DEPTHS}
        weights, form = self.weights, self.adversarial
        terms = {
            "segmentation": segmentation_loss(logits["source"]["deep"], label),
            "shallow": weights.shallow * segmentation_loss(logits["source"]["shallow"], label),
            **{name: weights.translation * term for name, term in translation.items()},
            "auxiliary": weights.auxiliary * generator_loss(auxiliary, form),
            "logits": weights.logits * generator_loss(judged["deep"], form),
            "shallow_logits": weights.shallow_logits * generator_loss(judged["shallow"], form),
        }
        return terms, {
            f"{depth}_{domain}": of_domain[depth].detach() for domain, of_domain in logits.items() for depth in DEPTHS
        }

    def _decoder_losses(self, batch: Batch, made: dict[str, Tensor]) -> Losses:
        """y is decoded so that it passes as an anatomy image, and so that translating it brings y back."""
        tumour, fake_tumour = batch["tumour"], made["tumour"]
        encoder, decoder = self.networks["encoder"], self.networks["decoder"]
        with torch.no_grad():  # the decoder has no part in it
            source, target = encoder(fake_tumour), encoder(tumour)
        cycled_anatomy, fake_anatomy = decoder(source.deep, fake_tumour), decoder(target.deep, tumour)
        terms, _ = self._translation_terms(fake_anatomy, cycled_anatomy, batch)
        return terms, {"anatomy": fake_anatomy.detach(), "cycled": cycled_anatomy.detach()}

    def _translation_terms(
        self, fake_anatomy: Tensor, cycled_anatomy: Tensor, batch: Batch
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What makes y' an anatomy image and closes the cycle, weighted; and d_A's auxiliary logits on y'."""
        real, auxiliary = self.networks["discriminator_anatomy"](fake_anatomy)
        terms = {
            "adversarial": self.weights.adversarial * generator_loss(real, self.adversarial),
            "cycle": self.weights.cycle * self._cycle(cycled_anatomy, fake_anatomy, batch),
        }
        return terms, auxiliary

    def _tumour_discriminator_losses(self, batch: Batch, made: dict[str, Tensor]) -> dict[str, Tensor]:
        discriminator = self.networks["discriminator_tumour"]
        fake = self.pools["tumour"].query(made["tumour"])
        real_logits, fake_logits = judged_together(discriminator, (batch["tumour"],), fake)
        return {"tumour": discriminator_loss(real_logits, fake_logits, self.adversarial)}

    def _anatomy_discriminator_losses(self, batch: Batch, made: dict[str, Tensor]) -> dict[str, Tensor]:
        """Both questions are asked about the same decoded tumour images, which are the fakes of both."""
        discriminator = self.networks["discriminator_anatomy"]
        (fake,) = self.pools["anatomy"].query(made["anatomy"])
        # Cycled ones are not pooled: they are the real side of the auxiliary question.
        logits, auxiliary = discriminator(torch.cat([batch["anatomy"], made["cycled"], fake]))
        (real, _, fake_real), (_, cycled, fake_cycled) = logits.chunk(3), auxiliary.chunk(3)
        return {
            "anatomy": discriminator_loss(real, fake_real, self.adversarial),
            "auxiliary": discriminator_loss(cycled, fake_cycled, self.adversarial),
        }

    def _logits_discriminator_losses(self, depth: str, made: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits of translated source images count as real, those of target images as fake. No pool, as released."""
        discriminator = self.networks[f"discriminator_{depth}"]
        source, target = judged_together(discriminator, (made[f"{depth}_source"],), (made[f"{depth}_target"],))
        return {"logits": discriminator_loss(source, target, self.adversarial)}

    def _decode(self, image: Tensor) -> Tensor:
        """A tumour-like image (N, C, H, W) as an anatomy-like one: encoder, then decoder."""
        return self.networks["decoder"](self.networks["encoder"](image).deep, image)

    def _logits(self, features: Features, image: Tensor) -> dict[str, Tensor]:
        """Logits (N, classes, H, W) of the heads at both depths."""
        size = image.shape[2:]
        return {depth: self.networks[f"head_{depth}"](getattr(features, depth), size) for depth in DEPTHS}

    def _cycle(self, cycled_anatomy: Tensor, fake_anatomy: Tensor, batch: Batch) -> Tensor:
        """Mean |x'' - x| + mean |g_A(y') - y|, unweighted."""
        cycled_tumour = self.networks["generator"](fake_anatomy)
        return l1(cycled_anatomy, batch["anatomy"]) + l1(cycled_tumour, batch["tumour"])

    @torch.no_grad()
    def translate(self, batch: Batch) -> Tensor:
        """g_A(x): tumour-like images (N, C, H, W) in [-1, 1] from `anatomy` alone, whatever the label."""
        return self.networks["generator"](batch["anatomy"])

    @torch.no_grad()
    def translate_back(self, batch: Batch) -> Tensor:
        """y': anatomy-like images (N, C, H, W) in [-1, 1], decoded from what the encoder reads in `tumour`."""
        return self._decode(batch["tumour"])

    @torch.no_grad()
    def cycle(self, batch: Batch, output: Tensor) -> Tensor:
        """The anatomy images decoded from what `translate` made, in [-1, 1]."""
        return self._decode(output)

    @torch.no_grad()
    def segment(self, image: Tensor) -> Tensor:
        """Label map (N, H, W) int64 of tumour images (N, C, H, W) in [-1, 1]: the deep head's likeliest class."""
        # Of logits: probabilities of classes that are nearly as likely may be the same number.
        return self._deep(image).argmax(dim=1)

    @torch.no_grad()
    def class_scores(self, volume: Tensor, modality: str) -> Tensor:
        """The probabilities (N, classes, H, W) float32 that the deep head gives tumour images; of no other `modality`.

        Raises ValueError for another one: an image of the source is translated first.
        """
        if modality not in self.segments:
            raise ValueError(f"SIFA segments tumour images, not {modality} images")
        return full_precision(self._deep(volume)).softmax(dim=1)

    def _deep(self, image: Tensor) -> Tensor:
        """The deep head's logits (N, classes, H, W) of tumour images."""
        return self._logits(self.networks["encoder"](image), image)["deep"]

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The columns anatomy, label, generated g_A(x), cycled x''; where the batch has y, real y and segmented y."""
        generated = self.translate(batch)
        label = label_picture(batch["label"], self.classes)
        pictures = {"anatomy": batch["anatomy"], "label": label, "generated": generated}
        if "tumour" not in batch:
            return {**pictures, "cycled": self.cycle(batch, generated)}
        segmented = label_picture(self.segment(batch["tumour"]), self.classes)
        real = batch["tumour"]
        return {**pictures, "real": real, "cycled": self.cycle(batch, generated), "segmented": segmented}
