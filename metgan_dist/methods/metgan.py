"""MetGAN (papers 1 and 2), its ablations, Pix2Pix and CycleGAN: paper 1's table 2 as one method under configuration.

F: (x, l) -> y is the network `generator`, G: (y, l) -> x is `inverse`; x anatomy, y tumour image, l label. With a cycle
both directions are trained, against one unconditional PatchGAN per domain. Without one there is F alone, against a
PatchGAN that sees the tumour image together with what F was given: anatomy and label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, Self

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
    weighted_cross_entropy,
)
from metgan_dist.methods.method import Batch, Best, Losses, Method, Player, Statistics
from metgan_dist.methods.rows import (
    PAPER_LOSS_WEIGHTS,
    ROWS,
    Backbone,
    LossWeights,
    Terms,
    backbone_divisor,
    begin_at,
    build_generator,
    coarsest_values,
)
from metgan_dist.methods.segmentor import label_picture, one_versus_rest
from metgan_dist.networks.image_statistics import image_statistics
from metgan_dist.networks.initialise import initialise
from metgan_dist.networks.label_as_image import label_channels
from metgan_dist.networks.metgen import MetGen
from metgan_dist.networks.patchgan import PatchGAN, shortest_edge
from metgan_dist.networks.resnet_9 import ResNet9
from metgan_dist.networks.spade import Norm
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.methods.rows import CycleRecipe, PairRecipe, RowRecipe, SegmentationRecipe

# Weights of tumour and background pixels when the segmentor judges the generator, 4:1 (MetGAN's release).
POSITIVE, NEGATIVE = 4.0, 1.0
# CycleGAN's, for both players (MetGAN's release).
BETAS = (0.5, 0.999)


class MetGAN(Method):
    """Players: `generators` (F and G, one optimiser), `discriminators` (one optimiser); in this order, or as pix2pix.

    Args:
        row: which of table 2's components the method has.
        backbone: the generators' network.
        channels: how many anatomy and tumour images have.
        classes: label classes, background included.
        label_input: whether generators and conditional discriminators are shown the label.
        edges: (H, W) or (D, H, W) of the images, by which the generators halve; the networks have as many dimensions.
        width: multiplier of all channel numbers of generators and discriminators.
        weights: of the loss terms; those of components that the row lacks are ignored. With weight 0 for `adversarial`
            there are no discriminators; for `segmentation`, no segmentor.
        segmentor: gives logits (N, classes - 1, H, W) of tumour images in [-1, 1]; it is frozen.
        adversarial: form of the adversarial loss.
        segmentation_loss: `wbce` weighted binary cross-entropy (paper); `l1` mean |probability - label| (released
            code).
        pool: past fakes per domain that the discriminators are shown; 0 for none. A fake stays with its condition.
        statistics: what BatchNorm normalises by in eval mode: each image's own, or those of the training.
    """

    inference = ("generator",)
    dimensions: ClassVar[tuple[int, ...]] = (2, 3)

    def __init__(
        self,
        *,
        row: Terms = ROWS["metgan"],
        backbone: Backbone = "metgen",
        channels: tuple[int, int] = (1, 1),
        classes: int = 2,
        edges: Sequence[int] = (256, 256),
        width: float = 1.0,
        weights: LossWeights = PAPER_LOSS_WEIGHTS,
        segmentor: nn.Module | None = None,
        adversarial: AdversarialForm = "least-squares",
        segmentation_loss: Literal["wbce", "l1"] = "wbce",
        pool: int = 50,
        learning_rate: float = 2e-4,
        merge_full_resolution: bool = False,
        stochastic_inference: bool = False,
        label_norm: Norm = "batch",
        statistics: Statistics = "running",
        label_input: bool = True,
    ) -> None:
        weights, shown = row.weights(weights), classes if label_input else 1
        _check(weights, channels)
        of = dict(zip(("anatomy", "tumour"), channels, strict=True))
        directions = {"generator": ("anatomy", "tumour"), **({"inverse": ("tumour", "anatomy")} if row.cycle else {})}
        networks = {
            name: build_generator(
                backbone,
                of[source],
                of[target],
                shown,
                edges,
                width,
                merge_full_resolution,
                stochastic_inference,
                label_norm,
            )
            for name, (source, target) in directions.items()
        }
        pools = {}
        if weights.adversarial:
            # Conditional where no cycle ties the output to its input: pix2pix and the *Cond rows of table 2.
            condition = 0 if row.cycle else of["anatomy"] + shown - 1
            for domain in ("tumour", "anatomy") if row.cycle else ("tumour",):
                patchgan = PatchGAN(of[domain], condition_channels=condition, width=width, dimensions=len(edges))
                networks[f"discriminator_{domain}"] = initialise(patchgan)
                pools[domain] = ImagePool(pool)
        judged = bool(weights.segmentation) and segmentor is not None
        if judged and segmentor is not None:
            networks["segmentor"] = segmentor
        super().__init__(networks, frozen=("segmentor",) if judged else (), pools=pools)
        self.row, self.classes, self.shown, self.weights = row, classes, shown, weights
        self.makes_ahead = row.discriminator_first
        self.begins_at = backbone == "metgen"
        self.translates_back = row.cycle
        self.adversarial: AdversarialForm = adversarial
        self.segmentation_loss = segmentation_loss
        self.statistics = statistics
        self.learning_rate = learning_rate

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, segmentor: nn.Module | None = None, perceptual: nn.Module | None = None
    ) -> Self:
        """The row `method.name` of table 2 as the sections `method`, `data`, `tiles` and `training` describe it."""
        method = RowRecipe.of(recipe.method)
        return cls(
            row=ROWS[method.name],
            backbone=method.backbone,
            channels=recipe.data.channel_numbers,
            classes=recipe.data.classes,
            edges=recipe.tiles.shape,
            width=method.width,
            weights=_weights(recipe),
            segmentor=segmentor,
            adversarial=method.adversarial,
            segmentation_loss=method.segmentation_loss if isinstance(method, SegmentationRecipe) else "wbce",
            pool=method.pool,
            learning_rate=recipe.training.learning_rate,
            merge_full_resolution=method.merge_full_resolution,
            stochastic_inference=method.stochastic_inference,
            label_norm=method.label_norm,
            statistics=method.statistics,
            label_input=method.label_input,
        )

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """UserError for no loss, an identity loss between images of different numbers of channels, and a MetGen that is
        shown no label."""
        _check(_weights(recipe), recipe.data.channel_numbers)
        method = RowRecipe.of(recipe.method)
        if method.backbone == "metgen" and not method.label_input:
            raise UserError("method.label_input: metgen has a path for the label; leave it out, or set method.backbone")

    @classmethod
    def divisor(cls, recipe: Recipe) -> int:
        """That of the generators."""
        return backbone_divisor(RowRecipe.of(recipe.method).backbone, recipe.tiles.dimensions)

    @classmethod
    def least_edge(cls, recipe: Recipe) -> int:
        """At least the discriminators' 24, where there are any."""
        return max(
            cls.divisor(recipe), 2 * ResNet9.divisor, shortest_edge() if RowRecipe.of(recipe.method).alpha1 else 1
        )

    @classmethod
    def fewest_values(cls, recipe: Recipe, edges: Sequence[int]) -> int | None:
        """Those of the generators' innermost features; the discriminators have no BatchNorm."""
        return coarsest_values(RowRecipe.of(recipe.method).backbone, edges)

    @classmethod
    def criterion(cls, recipe: Recipe) -> Best:
        """`mae` in rows with the pair loss, else `cycle_mae`."""
        return ("mae", "min") if ROWS[recipe.method.name].pair else ("cycle_mae", "min")

    @classmethod
    def loss_weights(cls, recipe: Recipe) -> tuple[str, ...]:
        """Of alpha1 to alpha4 and `identity` those whose terms the row has."""
        fields = type(recipe.method).model_fields
        return tuple(name for name in ("alpha1", "alpha2", "alpha3", "alpha4", "identity") if name in fields)

    @classmethod
    def needs(cls, recipe: Recipe) -> frozenset[str]:
        """The segmentor in rows with the segmentation loss, unless `method.alpha3` is 0."""
        return frozenset({"segmentor"} if _weights(recipe).segmentation else ())

    @classmethod
    def unpaired(cls, recipe: Recipe) -> bool:
        """Rows with a cycle and without the pair loss, or where `method.alpha4` is 0."""
        return ROWS[recipe.method.name].cycle and not _weights(recipe).pair

    @classmethod
    def needs_label(cls, recipe: Recipe) -> bool:
        """For the segmentation loss."""
        return "segmentor" in cls.needs(recipe)

    def begin_at(self, intensities: Mapping[str, Sequence[float]]) -> None:
        """F begins at the brightness of the tumour images, G at that of the anatomy."""
        for name, target in (("generator", "tumour"), ("inverse", "anatomy")):
            if target in intensities and name in self.networks:
                network = self.networks[name]
                assert isinstance(network, MetGen)
                begin_at(network.anatomy_path.output, intensities[target])

    def players(self) -> tuple[Player, ...]:
        """Generators, then discriminators; the reverse in pix2pix rows. No discriminators where alpha1 is 0."""
        names = ("generator", "inverse") if self.row.cycle else ("generator",)
        generators = Player("generators", names, self.learning_rate, BETAS)
        judges = tuple(name for name in self.networks if name.startswith("discriminator_"))
        if not judges:
            return (generators,)
        discriminators = Player("discriminators", judges, self.learning_rate, BETAS)
        return (discriminators, generators) if self.row.discriminator_first else (generators, discriminators)

    def ahead(self, batch: Batch) -> dict[str, Tensor]:
        """In pix2pix rows `tumour` = F(x, l), which first the discriminator sees and then the generator learns from."""
        return {"tumour": self._generated(batch)}

    def losses(self, player: str, batch: Batch, made: dict[str, Tensor]) -> Losses:
        """Terms adversarial, cycle, segmentation, pair, identity of the generators; tumour, anatomy of the others.

        The generators make `tumour` = F(x, l) and `anatomy` = G(y, l), which the discriminators need.
        """
        if player == "generators":
            return self._generator_losses(batch, made)
        return self._discriminator_losses(batch, made), {}

    def _generator_losses(self, batch: Batch, made: Mapping[str, Tensor]) -> Losses:
        """Paper 1, equations 1 to 4, each term in all directions that there are, but the segmentation, of F alone."""
        label, weights = self._label(batch), self.weights
        generator = self.networks["generator"]
        if self.row.cycle:
            inverse, tumour_label = self.networks["inverse"], self._tumour_label(batch, label)
            features, inverse_features = _encode(generator, label), _encode(inverse, label)
            # What G is given with y, and F to bring it back: the label of y's own place.
            tumour_features, inverse_tumour_features = features, inverse_features
            if tumour_label is not label:
                tumour_features, inverse_tumour_features = (
                    _encode(network, tumour_label) for network in (generator, inverse)
                )
            fakes = {
                "tumour": generator(batch["anatomy"], features),
                "anatomy": inverse(batch["tumour"], inverse_tumour_features),
            }
        else:
            fakes = {"tumour": made["tumour"] if "tumour" in made else self._generated(batch)}
        terms = {}
        if weights.adversarial:
            terms["adversarial"] = weights.adversarial * _sum(
                generator_loss(self._judged(domain, batch, fake), self.adversarial) for domain, fake in fakes.items()
            )
        if weights.cycle:
            # On the fakes themselves, not detached: the cycle teaches both generators at once.
            cycled_anatomy = inverse(fakes["tumour"], inverse_features)
            cycled_tumour = generator(fakes["anatomy"], tumour_features)
            terms["cycle"] = weights.cycle * (l1(cycled_anatomy, batch["anatomy"]) + l1(cycled_tumour, batch["tumour"]))
        if weights.identity:
            same_anatomy = inverse(batch["anatomy"], inverse_features)
            same_tumour = generator(batch["tumour"], tumour_features)
            terms["identity"] = weights.identity * (
                l1(same_anatomy, batch["anatomy"]) + l1(same_tumour, batch["tumour"])
            )
        if weights.segmentation:
            terms["segmentation"] = weights.segmentation * self._segmentation(fakes["tumour"], label)
        if weights.pair:
            terms["pair"] = weights.pair * _sum(l1(fake, batch[domain]) for domain, fake in fakes.items())
        return terms, {domain: fake.detach() for domain, fake in fakes.items()}

    def _discriminator_losses(self, batch: Batch, made: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Paper 1, equation 1, one term per domain, on fakes from the pools; pix2pix halves it.

        Not multiplied by alpha1: Adam takes the same steps whatever the scale, and the values stay comparable between
        runs.
        """
        if not made:
            with torch.no_grad():
                # The discriminator moves first in pix2pix, and nothing was made ahead.
                made = {"tumour": self._generated(batch)}
        scale = 0.5 if self.row.discriminator_first else 1.0
        terms = {}
        for domain, pool in self.pools.items():
            condition = self._condition(batch)
            given = [] if condition is None else [condition]
            # A fake is pooled with its condition: pools drawn apart would show it beside another's, a slip of the
            # released code.
            fake = pool.query(made[domain], *given)
            real = (batch[domain], *given)
            real_logits, fake_logits = judged_together(self.networks[f"discriminator_{domain}"], real, fake)
            terms[domain] = scale * discriminator_loss(real_logits, fake_logits, self.adversarial)
        return terms

    def _judged(self, domain: str, batch: Batch, image: Tensor) -> Tensor:
        return self.networks[f"discriminator_{domain}"](image, self._condition(batch))

    def _condition(self, batch: Batch) -> Tensor | None:
        """What the generator was given, for a conditional discriminator; None in the cycle setup."""
        if self.row.cycle:
            return None
        anatomy = batch["anatomy"]
        return torch.cat([anatomy, label_channels(batch["label"], self.shown).to(anatomy.dtype)], dim=1)

    def _segmentation(self, fake_tumour: Tensor, label: Tensor) -> Tensor:
        if "segmentor" not in self.networks:
            raise UserError(
                "method.segmentor: the segmentation loss needs a trained segmentor; name one or set method.alpha3 to 0"
            )
        # The segmentor is frozen and in eval mode, but the gradient runs through it to the image.
        logits = full_precision(self.networks["segmentor"](fake_tumour))
        target = one_versus_rest(label, self.classes, logits.dtype)
        if self.segmentation_loss == "l1":
            return l1(logits.sigmoid(), target)
        return weighted_cross_entropy(logits, target, positive=POSITIVE, negative=NEGATIVE)

    def _generated(self, batch: Batch) -> Tensor:
        generator = self.networks["generator"]
        return generator(batch["anatomy"], _encode(generator, self._label(batch)))

    def _label(self, batch: Batch) -> Tensor:
        """The label of the anatomy; in the cycle setup background, where the anatomy's domain has none."""
        if "label" in batch or not self.row.cycle:
            return batch["label"]
        return _background(batch["anatomy"])

    def _tumour_label(self, batch: Batch, label: Tensor) -> Tensor:
        """The label of the tumour image: `label` itself where both are of one place."""
        if "tumour_tile" not in batch:
            return batch.get("tumour_label", label)
        return batch["tumour_label"] if "tumour_label" in batch else _background(batch["tumour"])

    @torch.no_grad()
    def translate(self, batch: Batch) -> Tensor:
        """F(x, l): tumour images (N, C, H, W) in [-1, 1] from `anatomy`, whatever its channels, and `label`."""
        with self._inference("generator"):
            return self._generated(batch)

    @torch.no_grad()
    def cycle(self, batch: Batch, output: Tensor) -> Tensor | None:
        """G(F(x, l), l): the anatomy (N, C, H, W) that the inverse makes of `output`."""
        if not self.row.cycle:
            return None
        inverse = self.networks["inverse"]
        with self._inference("inverse"):
            return inverse(output, _encode(inverse, self._label(batch)))

    @torch.no_grad()
    def translate_back(self, batch: Batch) -> Tensor:
        """G(y, m): anatomy images (N, C, [D,] H, W) in [-1, 1] from `tumour` and `tumour_label`, background without."""
        if not self.row.cycle:
            return super().translate_back(batch)
        label = batch["tumour_label"] if "tumour_label" in batch else _background(batch["tumour"])
        inverse = self.networks["inverse"]
        with self._inference("inverse"):
            return inverse(batch["tumour"], _encode(inverse, label))

    def _inference(self, name: str) -> AbstractContextManager[None]:
        return image_statistics(self.networks[name]) if self.statistics == "image" else nullcontext()

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The columns anatomy, label, generated F(x, l), real y and, with a cycle, cycled G(F(x, l), l).

        Without real y where the batch has none.
        """
        generated = self.translate(batch)
        cycled = self.cycle(batch, generated)
        return {
            "anatomy": batch["anatomy"],
            "label": label_picture(self._label(batch), self.classes),
            "generated": generated,
            **({"real": batch["tumour"]} if "tumour" in batch else {}),
            **({} if cycled is None else {"cycled": cycled}),
        }


def _background(image: Tensor) -> Tensor:
    """The empty label (N, H, W) of images (N, C, H, W)."""
    return torch.zeros_like(image[:, 0], dtype=torch.long)


def _encode(generator: nn.Module, label: Tensor) -> Any:
    """The label as a generator wants it: once per direction and step where the authors compute it twice."""
    encode: Any = generator.encode_label
    return encode(label)


def _sum(terms: Any) -> Tensor:
    return torch.stack(list(terms)).sum()


def _weights(recipe: Recipe) -> LossWeights:
    """Those of the recipe, 0 for the terms that the row does not have."""
    method = recipe.method
    cycle = method if isinstance(method, CycleRecipe) else None
    return LossWeights(
        adversarial=RowRecipe.of(method).alpha1,
        cycle=cycle.alpha2 if cycle else 0.0,
        segmentation=method.alpha3 if isinstance(method, SegmentationRecipe) else 0.0,
        pair=method.alpha4 if isinstance(method, PairRecipe) else 0.0,
        identity=cycle.identity if cycle else 0.0,
    )


def _check(weights: LossWeights, channels: tuple[int, int]) -> None:
    anatomy, tumour = channels
    if weights.identity and anatomy != tumour:
        raise UserError(
            f"method.identity: {weights.identity:g}: the identity loss gives each generator an image of its output's "
            f"kind, but anatomy has {anatomy} channel(s) and tumour {tumour}; set it to 0"
        )
    if not (weights.adversarial or weights.cycle or weights.pair):
        raise UserError(
            "method.alpha1: the adversarial, cycle and pair terms are all 0 or absent, so a generator has no loss; "
            "set alpha1, alpha2 or alpha4"
        )
