"""Cycle- and shape-consistent translation between two modalities (Zhang et al., CVPR 2018): paper 5.

Volumes x of a modality A (`anatomy`, CT in the paper) and y of a modality B (`tumour`, MR), of different patients, each
with a label map of the same classes. F: x -> y (`generator`, G_B in the paper) and G: y -> x (`inverse`, G_A) are
trained as in CycleGAN. A cycle alone does not mind when F distorts a volume and G takes the distortion back; so a
segmentor of each modality has to find the source's label in what was translated into its modality. And the segmentors
learn, beside real volumes, from all that the generators make, whose labels are known.

The players in their order; CE is multi-class cross-entropy, l the label of x and m that of y:

    player          trains                               minimises
    generators      generator, inverse                   gan(D_B on F(x)) + gan(D_A on G(y))
                                                         + 10 (|G(F(x)) - x| + |F(G(y)) - y|)
                                                         + 1 (CE of S_B on F(x) against l + CE of S_A on G(y) against m)
    segmentors      segmentor_anatomy (S_A)              CE on x against l, on G(y) against m, on G(F(x)) against l
                    segmentor_tumour (S_B)               CE on y against m, on F(x) against l, on F(G(y)) against m
    discriminators  discriminator_anatomy (D_A), _tumour (D_B)   x and y are real, G(y) and F(x) from the pools are not

What the generators make in their turn is handed on, so each volume is made once a step. In the generators' turn the
segmentors are fixed, but the gradient runs through them to the volume.

The stages of section 4.2: segmentors on real volumes; generators and discriminators, with those segmentors as they are;
all together; all with rates that fall to 0, ended early when the segmentors' loss does not fall any more. Or all from
scratch (`method.from_scratch`), which the paper finds as good.

What table 2 compares it with differs in the last two stages alone (`method.synthetic`): with `offline` the generators
stand still, and the segmentors learn from real volumes and from what finished generators make of them, half and half;
with `none` from real volumes alone. The volumes of `offline` are those that a set synthesised beforehand would hold,
since generators that stand still make the same of a volume each time; none has to be kept.

The paper leaves open, and we choose: channel numbers (networks/cycle_shape.py); the segmentors' first weights (He et
al., as in the U-Net that they are; generators and discriminators as in CycleGAN); discriminators of CycleGAN's depth
and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from metgan_dist.errors import UserError
from metgan_dist.methods.image_pool import ImagePool
from metgan_dist.methods.losses import (
    AdversarialForm,
    cross_entropy,
    discriminator_loss,
    full_precision,
    generator_loss,
    judged_together,
    l1,
)
from metgan_dist.methods.method import Batch, Best, Losses, Method, Player, Stage
from metgan_dist.methods.segmentor import label_picture
from metgan_dist.networks.cycle_shape import SkipGenerator, SkipSegmentor
from metgan_dist.networks.initialise import initialise, initialise_he
from metgan_dist.networks.patchgan import PatchGAN, shortest_edge
from metgan_dist.recipe.methods.cycle_shape import CycleShapeRecipe

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe

Modality = Literal["anatomy", "tumour"]
Synthetic = Literal["online", "offline", "none"]

# For all players: CycleGAN's, which the paper follows closely.
BETAS = (0.5, 0.999)
PLAYERS = {
    "generators": ("generator", "inverse"),
    "segmentors": ("segmentor_anatomy", "segmentor_tumour"),
    "discriminators": ("discriminator_anatomy", "discriminator_tumour"),
}
# The stages in which segmentors learn from volumes that the generators make.
JOINT = ("together", "falling")
# The other modality of each: the source of what is translated into it.
SOURCE: Mapping[Modality, Modality] = {"anatomy": "tumour", "tumour": "anatomy"}


@dataclass(frozen=True)
class CycleShapeLossWeights:
    """Weights of the generators' terms (paper 5, equation 3: lambda 10 for the cycle, gamma 1 for the shape)."""

    adversarial: float = 1.0
    cycle: float = 10.0
    shape: float = 1.0


class CycleShape(Method):
    """Players: generators, segmentors, discriminators, as in the module's table.

    Args:
        classes: label classes, background included.
        channels: how many anatomy and tumour volumes have.
        dimensions: 2 for images (N, C, H, W), 3 for volumes (N, C, D, H, W).
        width: multiplier of all channel numbers.
        weights: of the generators' terms; with 0 for `shape` the segmentors have no say in what is generated.
        adversarial: form of the adversarial losses.
        synthetic: what the segmentors learn from beside real volumes in the last two stages: what the generators make
            while they learn, too, what finished ones make, or nothing.
        pool: past fakes per modality that the discriminators are shown; 0 for none.

    Edges of at least 24, of any size.
    """

    task = "unpaired"
    dimensions: ClassVar[tuple[int, ...]] = (2, 3)
    # Both translations and both segmentations are what the method is trained for.
    inference = ("generator", "inverse", "segmentor_anatomy", "segmentor_tumour")
    translates_back = True
    segments = ("anatomy", "tumour")

    def __init__(
        self,
        *,
        classes: int = 2,
        channels: tuple[int, int] = (1, 1),
        dimensions: int = 3,
        width: float = 1.0,
        weights: CycleShapeLossWeights = CycleShapeLossWeights(),
        adversarial: AdversarialForm = "least-squares",
        synthetic: Synthetic = "online",
        pool: int = 50,
        learning_rate: float = 2e-4,
    ) -> None:
        anatomy, tumour = channels
        networks: dict[str, nn.Module] = {
            "generator": initialise(SkipGenerator(anatomy, tumour, width=width, dimensions=dimensions)),
            "inverse": initialise(SkipGenerator(tumour, anatomy, width=width, dimensions=dimensions)),
        }
        for modality, count in (("anatomy", anatomy), ("tumour", tumour)):
            segmentor = SkipSegmentor(count, classes, width=width, dimensions=dimensions)
            networks[f"segmentor_{modality}"] = initialise_he(segmentor)
            discriminator = PatchGAN(count, width=width, dimensions=dimensions)
            networks[f"discriminator_{modality}"] = initialise(discriminator)
        super().__init__(networks, pools={modality: ImagePool(pool) for modality in SOURCE})
        self.classes, self.weights, self.learning_rate = classes, weights, learning_rate
        self.adversarial: AdversarialForm = adversarial
        self.synthetic: Synthetic = synthetic
        self.joint = False

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, segmentor: nn.Module | None = None, perceptual: nn.Module | None = None
    ) -> Self:
        """As the sections `method`, `data`, `tiles` and `training` describe it; it trains its own segmentors."""
        cls.check(recipe)
        method = CycleShapeRecipe.of(recipe.method)
        return cls(
            classes=recipe.data.classes,
            channels=recipe.data.channel_numbers,
            dimensions=len(recipe.tiles.shape),
            width=method.width,
            weights=CycleShapeLossWeights(method.alpha1, method.alpha2, method.shape),
            adversarial=method.adversarial,
            synthetic=method.synthetic,
            pool=method.pool,
            learning_rate=recipe.training.learning_rate,
        )

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """UserError for generators that nothing draws to the other modality, or that no stage finishes."""
        method = CycleShapeRecipe.of(recipe.method)
        if not method.alpha1:
            raise UserError(
                "method.alpha1: 0, but it is from the discriminators alone that cycle_shape's generators learn what "
                "the other modality looks like; set it above 0"
            )
        if method.from_scratch and method.synthetic != "online":
            raise UserError(
                f"method.synthetic: {method.synthetic} is of the last two stages, and method.from_scratch has "
                "one alone; leave one of them out"
            )

    @classmethod
    def unpaired(cls, recipe: Recipe) -> bool:
        """Always: no term compares x with y."""
        return True

    @classmethod
    def needs_target_label(cls, recipe: Recipe) -> bool:
        """Always: each modality has a segmentor that learns from its own labels."""
        return True

    @classmethod
    def divisor(cls, recipe: Recipe) -> int:
        """1: edges need not be multiples of anything, since the networks pad (86 is no multiple of 8)."""
        return 1

    @classmethod
    def least_edge(cls, recipe: Recipe) -> int:
        """The discriminators' 24 voxels: with fewer their last norm has a single value to look at."""
        return shortest_edge()

    @classmethod
    def criterion(cls, recipe: Recipe) -> Best:
        """The cycle's error: there are no pairs."""
        return "cycle_mae", "min"

    @classmethod
    def loss_weights(cls, recipe: Recipe) -> tuple[str, ...]:
        """Adversarial, cycle and shape."""
        return ("alpha1", "alpha2", "shape")

    def players(self) -> tuple[Player, ...]:
        """Generators, segmentors, discriminators, all with the same rate and betas."""
        return tuple(Player(name, networks, self.learning_rate, BETAS) for name, networks in PLAYERS.items())

    @classmethod
    def stages(cls, recipe: Recipe) -> tuple[Stage, ...]:
        """The four of section 4.2; with `method.from_scratch` one of all players, as long as `training` says.

        Segmentors that do not learn online have the last two to themselves.
        """
        method = CycleShapeRecipe.of(recipe.method)
        if method.from_scratch:
            return super().stages(recipe)
        joint = tuple(PLAYERS) if method.synthetic == "online" else ("segmentors",)
        return (
            Stage("segmentors", ("segmentors",), epochs=100, decay_from=1.0),
            # The segmentors stand still, but their judgement of shapes counts.
            Stage("translation", ("generators", "discriminators"), epochs=60, decay_from=1.0),
            # Afresh, since the segmentors' losses are others from here on, and so that stages before it that were taken
            # from another run lead to the same as those that were trained in this one.
            Stage("together", joint, epochs=50, decay_from=1.0, afresh=True),
            # "Decrease the learning rates steadily for 50 epochs till 0"; "about 5 epochs" without a lower segmentation
            # loss: all that the segmentors minimise.
            Stage("falling", joint, epochs=50, decay_from=0.0, patience=("segmentors", 5)),
        )

    def enter(self, stage: Stage) -> None:
        """Know whether the segmentors are to learn from what the generators make."""
        self.joint = stage.name in JOINT

    def losses(self, player: str, batch: Batch, made: dict[str, Tensor]) -> Losses:
        """The terms of the module's table: `adversarial`, `cycle`, `shape`; `anatomy_real`, `anatomy_translated`,
        `anatomy_reconstructed` and those of the tumour; `anatomy`, `tumour`.

        The generators make `tumour` = F(x), `anatomy` = G(y), `cycled_anatomy` = G(F(x)) and `cycled_tumour` = F(G(y)).
        Where they do not move, as in the first stage, the segmentors have real volumes alone. Raises UserError for a
        batch that lacks the label of a modality.
        """
        match player:
            case "generators":
                return self._generator_losses(batch)
            case "segmentors":
                return self._segmentor_losses(batch, made), {}
            case "discriminators":
                return self._discriminator_losses(batch, made), {}
        raise ValueError(f"no player {player!r}; players: {', '.join(PLAYERS)}")

    def _generator_losses(self, batch: Batch) -> Losses:
        """Equation 3: what makes the translated volumes pass, brings them back, and keeps their shapes."""
        to_tumour, to_anatomy = self.networks["generator"], self.networks["inverse"]
        fakes: dict[Modality, Tensor] = {"tumour": to_tumour(batch["anatomy"]), "anatomy": to_anatomy(batch["tumour"])}
        # On the fakes themselves, not detached: the cycle teaches both generators at once.
        cycled: dict[Modality, Tensor] = {"anatomy": to_anatomy(fakes["tumour"]), "tumour": to_tumour(fakes["anatomy"])}
        adversarial = [
            generator_loss(self.networks[f"discriminator_{modality}"](fake), self.adversarial)
            for modality, fake in fakes.items()
        ]
        terms = {"adversarial": self.weights.adversarial * torch.stack(adversarial).sum()}
        if self.weights.cycle:
            errors = [l1(volume, batch[modality]) for modality, volume in cycled.items()]
            terms["cycle"] = self.weights.cycle * torch.stack(errors).sum()
        if self.weights.shape:
            labels = _labels(batch)
            shapes = [self._segmentation(modality, fake, labels[SOURCE[modality]]) for modality, fake in fakes.items()]
            terms["shape"] = self.weights.shape * torch.stack(shapes).sum()
        return terms, {
            **{modality: fake.detach() for modality, fake in fakes.items()},
            **{f"cycled_{modality}": volume.detach() for modality, volume in cycled.items()},
        }

    def _segmentor_losses(self, batch: Batch, made: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Section 3.5: each segmentor on all volumes of its modality that there are in this step, with their labels.

        Of finished generators both volumes together count as much as the real one.
        """
        offline = self.joint and self.synthetic == "offline"
        there = self._made(batch) if offline else made
        weights = {"translated": 0.5, "reconstructed": 0.5} if offline else {}
        return {
            f"{modality}_{kind}": weights.get(kind, 1.0) * self._segmentation(modality, volume, label)
            for modality in SOURCE
            for kind, volume, label in _volumes(modality, batch, there)
        }

    @torch.no_grad()
    def _made(self, batch: Batch) -> dict[str, Tensor]:
        """What the generators make of a batch as they are, as their own turn hands it on."""
        to_tumour, to_anatomy = self.networks["generator"], self.networks["inverse"]
        made = {"tumour": to_tumour(batch["anatomy"]), "anatomy": to_anatomy(batch["tumour"])}
        return {**made, "cycled_anatomy": to_anatomy(made["tumour"]), "cycled_tumour": to_tumour(made["anatomy"])}

    def _segmentation(self, modality: Modality, volume: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(self.networks[f"segmentor_{modality}"](volume), label)

    def _discriminator_losses(self, batch: Batch, made: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """CycleGAN's, on fakes from the pools."""
        terms = {}
        for modality, pool in self.pools.items():
            discriminator = self.networks[f"discriminator_{modality}"]
            real, fake = judged_together(discriminator, (batch[modality],), pool.query(made[modality]))
            terms[modality] = discriminator_loss(real, fake, self.adversarial)
        return terms

    @torch.no_grad()
    def translate(self, batch: Batch) -> Tensor:
        """F(x): volumes like the tumour's (N, C, ...) in [-1, 1] from `anatomy` alone, whatever the label."""
        return self.networks["generator"](batch["anatomy"])

    @torch.no_grad()
    def translate_back(self, batch: Batch) -> Tensor:
        """G(y): volumes like the anatomy's (N, C, ...) in [-1, 1] from `tumour` alone: the other direction."""
        return self.networks["inverse"](batch["tumour"])

    @torch.no_grad()
    def cycle(self, batch: Batch, output: Tensor) -> Tensor:
        """G(F(x)): the anatomy (N, C, ...) that the inverse makes of `output`."""
        return self.networks["inverse"](output)

    @torch.no_grad()
    def segment(self, volume: Tensor, modality: Modality) -> Tensor:
        """Label map (N, ...) int64 of volumes (N, C, ...) in [-1, 1] of a modality, real or translated into it."""
        return self.class_scores(volume, modality).argmax(dim=1)

    @torch.no_grad()
    def class_scores(self, volume: Tensor, modality: str) -> Tensor:
        """The probabilities (N, classes, ...) float32 that a modality's segmentor gives; the highest is the label."""
        return full_precision(self.networks[f"segmentor_{modality}"](volume)).softmax(dim=1)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The columns anatomy, label, generated F(x), segmented by S_B, cycled G(F(x)), and y where there is one."""
        generated = self.translate(batch)
        return {
            "anatomy": batch["anatomy"],
            "label": label_picture(batch["label"], self.classes),
            "generated": generated,
            "segmented": label_picture(self.segment(generated, "tumour"), self.classes),
            "cycled": self.cycle(batch, generated),
            **({"real": batch["tumour"]} if "tumour" in batch else {}),
        }


def _volumes(modality: Modality, batch: Batch, made: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Volumes of a modality by kind, each with its label: what is translated keeps that of the volume it came from."""
    labels = _labels(batch)
    yield "real", batch[modality], labels[modality]
    if modality in made:
        yield "translated", made[modality], labels[SOURCE[modality]]
        yield "reconstructed", made[f"cycled_{modality}"], labels[modality]


def _labels(batch: Batch) -> dict[Modality, Tensor]:
    """The labels of either modality's volumes; on pairs, which are no volumes of their own, there is one for both."""
    unpaired = "tumour_tile" in batch or "tumour_label" in batch
    given: dict[Modality, Tensor | None] = {
        "anatomy": batch.get("label"),
        "tumour": batch.get("tumour_label") if unpaired else batch.get("label"),
    }
    labels = {modality: label for modality, label in given.items() if label is not None}
    if lacking := next((modality for modality in given if modality not in labels), None):
        raise UserError(
            f"data.label: the volumes of data.{lacking} have no label, and cycle_shape trains a segmentor of each "
            "modality; label them, or use a method without segmentors, such as cyclegan"
        )
    return labels
