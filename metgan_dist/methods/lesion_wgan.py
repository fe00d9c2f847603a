"""Lesion masks from latent vectors: a Wasserstein GAN with gradient penalty (paper 4, appendix A.4).

The appendix names the loss and its papers, and no constants: those are of Gulrajani et al. 2017, algorithm 1. The
critic moves five times in a step, against new masks each time, by

    mean D(fake) - mean D(real) + 10 mean (|dD/dx at x = e real + (1 - e) fake| - 1)^2        e uniform in [0, 1]

and the generator once, by -mean D(fake). The norm of the gradient runs over all voxels and channels of a mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from metgan_dist.errors import UserError
from metgan_dist.methods.losses import full_precision, gradient_penalty, judged_together
from metgan_dist.methods.method import Batch, Best, Losses, Method, Player
from metgan_dist.methods.segmentor import label_picture
from metgan_dist.networks.initialise import initialise, initialise_he
from metgan_dist.networks.lesion_wgan import MaskCritic, MaskGenerator
from metgan_dist.networks.spade import one_hot_label
from metgan_dist.recipe.methods.lesion_wgan import LesionWGANRecipe

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe

BETAS = (0.0, 0.9)
# Begins the words that a latent vector follows from, so that masks that go with tiles and others never share one.
OF_TILE = 1


class LesionWGAN(Method):
    """A generator of masks and its critic, trained on labels alone.

    Args:
        classes: of the labels, background included.
        edges: of the tiles in voxels, (D, H, W) or (H, W).
        width: multiplier of all channel numbers.
        latent: numbers in a latent vector.
        penalty: weight of the gradient penalty.
        critic_moves: of the critic in a step.
        learning_rate: Adam's, of both.
    """

    inference = ("generator",)
    dimensions: ClassVar[tuple[int, ...]] = (2, 3)
    task = "mask_generation"
    judged = False

    def __init__(
        self,
        *,
        classes: int = 2,
        edges: Sequence[int] = (32, 128, 128),
        width: float = 1.0,
        latent: int = 128,
        penalty: float = 10.0,
        critic_moves: int = 5,
        learning_rate: float = 1e-4,
    ) -> None:
        generator = MaskGenerator(classes, edges, latent=latent, width=width)
        # Without a norm a signal must keep its size by its weights.
        critic = initialise_he(MaskCritic(classes, edges, width=width))
        super().__init__({"generator": initialise(generator), "discriminator": critic})
        self.classes, self.latent = classes, latent
        self.penalty, self.critic_moves, self.learning_rate = penalty, critic_moves, learning_rate

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, segmentor: nn.Module | None = None, perceptual: nn.Module | None = None
    ) -> Self:
        """As the sections `method`, `data`, `tiles` and `training` describe it."""
        method = LesionWGANRecipe.of(recipe.method)
        return cls(
            classes=recipe.data.classes,
            edges=recipe.tiles.shape,
            width=method.width,
            latent=method.latent,
            penalty=method.penalty,
            critic_moves=method.critic_moves,
            learning_rate=recipe.training.learning_rate,
        )

    @classmethod
    def criterion(cls, recipe: Recipe) -> Best:
        """How far the masks are from real ones in volume, number, compactness and place; lower is better."""
        return ("mask_distance", "min")

    @classmethod
    def loss_weights(cls, recipe: Recipe) -> tuple[str, ...]:
        """That of the gradient penalty."""
        return ("penalty",)

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """UserError for augmentation, which takes masks out of their place."""
        if recipe.training.augment:
            raise UserError(
                "training.augment: flips and turns take masks out of their place in the head, which lesion_wgan is to "
                "learn; set it to none"
            )

    @classmethod
    def divisor(cls, recipe: Recipe) -> int:
        """That of the generator."""
        return MaskGenerator.divisor

    @classmethod
    def least_edge(cls, recipe: Recipe) -> int:
        """That of the generator."""
        return MaskGenerator.least_edge

    def players(self) -> tuple[Player, ...]:
        """The critic, several times, then the generator."""
        # A gradient penalty is differentiated twice, which neither compiled turns nor DDP's hooks allow.
        return (
            Player("critic", ("discriminator",), self.learning_rate, BETAS, moves=self.critic_moves, compiled=False),
            Player("generator", ("generator",), self.learning_rate, BETAS),
        )

    def losses(self, player: str, batch: Batch, made: dict[str, Tensor]) -> Losses:
        """`distance` and `penalty` of the critic, `adversarial` of the generator; makes nothing for the others.

        Draws latent vectors, and where the penalty is taken, from torch's global random state.
        """
        critic, label = self.networks["discriminator"], batch["label"]
        z = torch.randn(len(label), self.latent, device=label.device)
        if player == "generator":
            return {"adversarial": -full_precision(critic(self.networks["generator"](z))).mean()}, {}
        with torch.no_grad():
            fake = self.networks["generator"](z)
        real = one_hot_label(label, self.classes, fake.dtype)
        of_fake, of_real = (full_precision(found) for found in judged_together(critic, (fake,), (real,)))
        mix = torch.rand(len(label), *(1,) * (real.dim() - 1), device=label.device)
        terms = {"distance": of_fake.mean() - of_real.mean()}
        if self.penalty:
            terms["penalty"] = self.penalty * gradient_penalty(critic, real, fake, mix)
        return terms, {}

    @torch.no_grad()
    def draw(self, seeds: Iterable[Sequence[int]]) -> Tensor:
        """Masks (N, [D,] H, W) int64, each from its own seed: some words, from which alone it follows."""
        return self._probabilities(seeds).argmax(dim=1)

    @torch.no_grad()
    def translate(self, batch: Batch) -> Tensor:
        """A mask (N, [D,] H, W) int64 for each tile of a batch, from the tile's number; of its pixels it sees nothing.

        So the masks of a validation are the same draws each time. Without `tile`, from the place in the batch. For two
        classes the likeliest is what the paper's threshold of 0.5 gives.
        """
        return self.draw(self._seeds(batch))

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The columns label (a real one), generated, and soft: the probability of anything but background."""
        probabilities = self._probabilities(self._seeds(batch))
        return {
            "label": label_picture(batch["label"], self.classes),
            "generated": label_picture(probabilities.argmax(dim=1), self.classes),
            "soft": 1 - 2 * probabilities[:, :1],
        }

    def _seeds(self, batch: Batch) -> list[tuple[int, int]]:
        count = len(next(iter(batch.values())))
        return [(OF_TILE, tile) for tile in (batch["tile"].tolist() if "tile" in batch else range(count))]

    def _probabilities(self, seeds: Iterable[Sequence[int]]) -> Tensor:
        # By numpy, whose numbers do not depend on the device, nor on how many are drawn.
        drawn = [np.random.Generator(np.random.PCG64(list(words))).standard_normal(self.latent) for words in seeds]
        weight = next(self.networks["generator"].parameters())
        found: Tensor = self.networks["generator"](torch.from_numpy(np.stack(drawn)).to(weight))
        return found
