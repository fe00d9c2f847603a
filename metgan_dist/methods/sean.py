"""SEAN and SEAN+VAE as the MetGAN papers' baselines: images from labels and a style per region (methods.md section 6).

The papers name SEAN+VAE and say no more of it. Here it is SEAN with SPADE's variational auto-encoder: what an encoder
says of the image takes the place of the label at the generator's coarsest features, and the styles stay SEAN's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from metgan_dist.methods.adversarial_features import kl_divergence
from metgan_dist.methods.label_to_image import PAPER_WEIGHTS, FeatureWeights, LabelToImage
from metgan_dist.methods.losses import AdversarialForm, full_precision
from metgan_dist.methods.method import Batch
from metgan_dist.networks import region_style
from metgan_dist.networks.image_encoder import ImageEncoder
from metgan_dist.networks.multiscale import MultiscaleDiscriminator
from metgan_dist.networks.region_style import MeanStyle, StyleEncoder
from metgan_dist.networks.sean import ClassLinear
from metgan_dist.networks.sean_generator import SeanGenerator
from metgan_dist.networks.xavier import initialise_xavier
from metgan_dist.recipe import tile_edges

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe

GAIN = 0.02


class Sean(LabelToImage):
    """Generator from the label and the style of each of its regions; the styles come from images.

    In training an image gives the styles for its own label. At inference there is no tumour image, so `translate` takes
    the mean style of each class over the training, which the network `mean_style` keeps; with `vae` it takes the mean
    of z's prior, 0, and `sample` draws z. The norms' noise is left out in eval mode: an output depends on its
    label alone. `encode_styles`, `mix_styles` and `generate_from_styles` are SEAN's editing.

    Args:
        vae: SEAN+VAE.
        channels: channels of the tumour images.
        classes: label classes, background included.
        edges: edges of the tiles in pixels; needed with `vae`, whose linear layers depend on them.
        width: multiplier of all channel numbers (the length of a style, too) but `latent`.
        latent: numbers of z.
        kl: weight of the Kullback-Leibler divergence, a sum over z and a mean over the batch.
        weights, perceptual, adversarial, learning_rate: see `LabelToImage`.
    """

    inference = ("generator", "style_encoder", "mean_style")

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
        weights: FeatureWeights = PAPER_WEIGHTS,
        perceptual: nn.Module | None = None,
        adversarial: AdversarialForm = "hinge",
        learning_rate: float = 2e-4,
    ) -> None:
        generator = SeanGenerator(channels, classes, width=width, latent=latent if vae else None, edges=edges)
        networks: dict[str, nn.Module] = {
            "generator": generator,
            "style_encoder": StyleEncoder(channels, classes, width=width),
            "mean_style": MeanStyle(classes, generator.style),
        }
        if vae:
            assert edges is not None  # SeanGenerator has asked for them
            networks["encoder"] = ImageEncoder(channels, edges, latent=latent, width=width)
        networks["discriminator"] = MultiscaleDiscriminator(
            channels, condition_channels=classes, layers=3, last_stride=2, width=width
        )
        super().__init__(
            {name: _initialised(network) for name, network in networks.items()},
            classes=classes,
            weights=weights,
            perceptual=perceptual,
            adversarial=adversarial,
            learning_rate=learning_rate,
        )
        self.vae, self.latent, self.kl = vae, latent, kl

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, segmentor: nn.Module | None = None, perceptual: nn.Module | None = None
    ) -> Self:
        """`method.name` sean or sean_vae, as the sections `method`, `data`, `tiles` and `training` describe it."""
        method = recipe.method
        return cls(
            vae=method.name == "sean_vae",
            classes=recipe.data.classes,
            edges=tile_edges(recipe),
            width=method.width,
            latent=method.latent,
            kl=method.kl,
            weights=FeatureWeights(method.feature_matching, method.perceptual),
            perceptual=perceptual,
            adversarial=method.adversarial,
            learning_rate=recipe.training.learning_rate,
        )

    def generate(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Images of `label` in the styles of `tumour`; with `vae` z of `tumour` and the term `kl`.

        In training mode the mean style takes the batch's styles in.
        """
        image, label = batch["tumour"], batch["label"]
        styles = self.networks["style_encoder"](image, label)
        if self.training:
            self._mean_style().update(styles, label)
        if not self.vae:
            return self.networks["generator"](label, styles), {}
        mean, log_variance = (full_precision(part) for part in self.networks["encoder"](image))
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        terms = {"kl": self.kl * kl_divergence(mean, log_variance)} if self.kl else {}
        return self.networks["generator"](label, styles, z), terms

    @torch.no_grad()
    def encode_styles(self, image: Tensor, label: Tensor) -> Tensor:
        """The style of each region of tumour images (N, C, H, W) with labels (N, H, W): (N, classes, style).

        512 numbers at width 1, in [-1, 1]; zeros where an image has no pixel of a class.
        """
        return self.networks["style_encoder"](image, label)

    def mean_styles(self, images: int = 1) -> Tensor:
        """The mean style of each class over the training, (images, classes, style), the same for each image."""
        return self._mean_style()(images)

    mix_styles = staticmethod(region_style.mix_styles)

    @torch.no_grad()
    def generate_from_styles(self, label: Tensor, styles: Tensor, latent: Tensor | None = None) -> Tensor:
        """Tumour images (N, C, H, W) in [-1, 1] of labels (N, H, W) in the given styles (N, classes, style).

        `latent` (N, latent) is z of SEAN+VAE, 0 where it is not given. Raises ValueError for a latent without `vae`.
        """
        if self.vae and latent is None:
            latent = styles.new_zeros(len(label), self.latent)
        return self.networks["generator"](label, styles, latent)

    def translate(self, batch: Batch) -> Tensor:
        """Tumour images (N, C, H, W) in [-1, 1] from `label` alone, in the mean styles; with `vae` at z = 0."""
        label = batch["label"]
        return self.generate_from_styles(label, self.mean_styles(len(label)))

    @torch.no_grad()
    def sample(self, batch: Batch, count: int, generator: torch.Generator | None = None) -> Tensor:
        """`count` tumour images for each label, (N, count, C, H, W), in the mean styles, each with its own z.

        z is drawn from N(0, 1) by `generator`, or from torch's global random state on the CPU; the same seed gives the
        same images. Raises UserError without `vae`.
        """
        if not self.vae:
            return super().sample(batch, count, generator)
        label = batch["label"]
        styles = self.mean_styles(len(label))
        source = torch.device("cpu") if generator is None else generator.device
        draws = torch.randn(count, len(label), self.latent, generator=generator, device=source).to(label.device)
        return torch.stack([self.generate_from_styles(label, styles, z) for z in draws], dim=1)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The columns anatomy (not an input), label, generated, real, and reconstructed: in the real image's styles."""
        image, label = batch["tumour"], batch["label"]
        latent = self.networks["encoder"](image)[0] if self.vae else None
        reconstructed = self.generate_from_styles(label, self.encode_styles(image, label), latent)
        return {**super().pictures(batch), "reconstructed": reconstructed}

    def _mean_style(self) -> MeanStyle:
        network = self.networks["mean_style"]
        assert isinstance(network, MeanStyle)
        return network


def _initialised(network: nn.Module) -> nn.Module:
    for module in initialise_xavier(network, GAIN).modules():
        if isinstance(module, ClassLinear):
            module.initialise(GAIN)
    return network
