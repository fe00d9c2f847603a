"""RedGAN as the MetGAN paper's baseline: SPADE with a global class and a segmentor as third player (section 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from metgan_dist.errors import UserError
from metgan_dist.methods.label_to_image import FeatureWeights, LabelToImage
from metgan_dist.methods.losses import AdversarialForm, full_precision
from metgan_dist.methods.method import Batch
from metgan_dist.networks.eager import eager
from metgan_dist.networks.initialise import initialise_xavier
from metgan_dist.networks.multiscale import MultiscaleDiscriminator
from metgan_dist.networks.redgan_generator import RedGanGenerator
from metgan_dist.recipe.methods.redgan import RedGANRecipe

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe

REDGAN_WEIGHTS = FeatureWeights(feature_matching=10.0, perceptual=0.0)


class RedGan(LabelToImage):
    """Generator from the label and a class of the whole image; a frozen segmentor beside the discriminator.

    The segmentor is no loss. What it finds is shown to the discriminator together with the image, real or generated:
    an image whose tumours a segmentor does not find where the label has them gives itself away. The gradient reaches
    the generator through the image and through the segmentor.

    A batch holds `organ`, (N,) integers 0..global_classes-1, the class of the whole tile; with one class only it may
    leave it out.

    Args:
        channels: channels of the tumour images.
        classes: label classes, background included.
        global_classes: classes of whole tiles.
        organs: what these classes are; at most as many.
        edges: edges of the tiles in pixels; the generator's linear layer depends on them.
        width: multiplier of all channel numbers.
        segmentor: gives logits (N, classes - 1, H, W) of tumour images in [-1, 1]; it is frozen. None where nothing is
            trained.
        weights, perceptual, adversarial, learning_rate: see `LabelToImage`; by default without the perceptual loss.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        classes: int = 2,
        global_classes: int = 1,
        organs: Sequence[str] = (),
        edges: Sequence[int] = (256, 256),
        width: float = 1.0,
        segmentor: nn.Module | None = None,
        weights: FeatureWeights = REDGAN_WEIGHTS,
        perceptual: nn.Module | None = None,
        adversarial: AdversarialForm = "hinge",
        learning_rate: float = 2e-4,
    ) -> None:
        generator = RedGanGenerator(channels, classes, global_classes, edges=edges, width=width)
        discriminator = MultiscaleDiscriminator(
            channels + classes - 1, condition_channels=classes, layers=3, last_stride=2, width=width
        )
        networks = {"generator": initialise_xavier(generator), "discriminator": initialise_xavier(discriminator)}
        third = {} if segmentor is None else {"segmentor": segmentor}
        super().__init__(
            {**networks, **third},
            classes=classes,
            weights=weights,
            perceptual=perceptual,
            adversarial=adversarial,
            learning_rate=learning_rate,
            frozen=tuple(third),
        )
        self.global_classes, self.organs = global_classes, tuple(organs)

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, segmentor: nn.Module | None = None, perceptual: nn.Module | None = None
    ) -> Self:
        """`method.name` redgan, as the sections `method`, `data`, `tiles` and `training` describe it."""
        method = RedGANRecipe.of(recipe.method)
        return cls(
            channels=recipe.data.channel_numbers[1],
            classes=recipe.data.classes,
            global_classes=max(1, len(method.organs)) if method.global_classes == "auto" else method.global_classes,
            organs=method.organs,
            edges=recipe.tiles.shape,
            width=method.width,
            segmentor=segmentor,
            weights=FeatureWeights(method.feature_matching, method.perceptual),
            perceptual=perceptual,
            adversarial=method.adversarial,
            learning_rate=recipe.training.learning_rate,
        )

    @classmethod
    def needs(cls, recipe: Recipe) -> frozenset[str]:
        """The segmentor, always: it is the third player."""
        return super().needs(recipe) | {"segmentor"}

    def generate(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Images of `label` and `organ`; no further terms."""
        return self.networks["generator"](batch["label"], self.global_class(batch)), {}

    def shown(self, image: Tensor, batch: Batch) -> Tensor:
        """The image (N, C, H, W) and the segmentor's probability of each foreground class, (N, C + classes - 1, H, W).

        Raises UserError without a segmentor.
        """
        if "segmentor" not in self.networks:
            raise UserError("method.segmentor: RedGAN's discriminator needs a trained segmentor; name one")
        probability = full_precision(self.networks["segmentor"](image)).sigmoid()
        return torch.cat([image, probability.to(image.dtype)], dim=1)

    @torch.no_grad()
    def translate(self, batch: Batch) -> Tensor:
        """Tumour images (N, C, H, W) in [-1, 1] from `label` and `organ`."""
        return self.generate(batch)[0]

    def global_class(self, batch: Batch) -> Tensor:
        """The global classes (N,) int64 of a batch.

        Raises UserError for one outside 0..global_classes-1, and for a batch without, where there are several classes.
        """
        label, organ = batch["label"], batch.get("organ")
        if self.global_classes == 1:
            return torch.zeros(len(label), dtype=torch.int64, device=label.device)
        if organ is None:
            raise UserError(
                f"method.global_classes: {self.global_classes} classes, but the tiles name no organ; use tiles cut "
                "from volumes with an `organ`"
            )
        _check_range(organ, self.global_classes)
        return organ.long()


# On a GPU an index out of range ends the process without a word on the cause; this comparison is worth its wait.
@eager
def _check_range(organ: Tensor, global_classes: int) -> None:
    lowest, highest = (int(value) for value in organ.aminmax())
    if lowest < 0 or highest >= global_classes:
        raise UserError(
            f"method.global_classes: organs {lowest} to {highest} do not fit {global_classes} classes, which are "
            "numbered from 0; -1 is an organ that the method was not trained on, or none"
        )
