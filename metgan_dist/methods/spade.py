"""SPADE and SPADE+VAE as the MetGAN papers' baselines: tumour images from labels alone (methods.md section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from metgan_dist.methods.adversarial_features import kl_divergence
from metgan_dist.methods.label_to_image import PAPER_WEIGHTS, FeatureWeights, LabelToImage
from metgan_dist.methods.losses import AdversarialForm, full_precision
from metgan_dist.methods.method import Batch
from metgan_dist.networks.image_encoder import ImageEncoder
from metgan_dist.networks.multiscale import MultiscaleDiscriminator
from metgan_dist.networks.spade_generator import SpadeGenerator
from metgan_dist.networks.xavier import initialise_xavier
from metgan_dist.recipe import tile_edges

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe


class Spade(LabelToImage):
    """Generator from the label; with `vae` from the label and a latent vector z, which stands for the image's style.

    In training z is drawn from what the network `encoder`, trained with the generator, says of the real image. At
    inference there is no real image: `translate` takes the mean of z's prior, 0, so that an output depends on its label
    alone, not on random numbers or on its place in a batch; `sample` draws z from the prior.

    Args:
        vae: SPADE+VAE.
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
        weights: FeatureWeights = PAPER_WEIGHTS,
        perceptual: nn.Module | None = None,
        adversarial: AdversarialForm = "hinge",
        learning_rate: float = 2e-4,
    ) -> None:
        generator = SpadeGenerator(channels, classes, width=width, latent=latent if vae else None, edges=edges)
        networks: dict[str, nn.Module] = {"generator": generator}
        if vae:
            assert edges is not None  # SpadeGenerator has asked for them
            networks["encoder"] = ImageEncoder(channels, edges, latent=latent, width=width)
        networks["discriminator"] = MultiscaleDiscriminator(channels, condition_channels=classes, layers=4, width=width)
        super().__init__(
            {name: initialise_xavier(network) for name, network in networks.items()},
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
        """`method.name` spade or spade_vae, as the sections `method`, `data`, `tiles` and `training` describe it."""
        method = recipe.method
        return cls(
            vae=method.name == "spade_vae",
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
        """Images of `label`; with `vae` in the style of `tumour`, and the term `kl`."""
        generator = self.networks["generator"]
        if not self.vae:
            return generator(batch["label"]), {}
        mean, log_variance = (full_precision(part) for part in self.networks["encoder"](batch["tumour"]))
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        terms = {"kl": self.kl * kl_divergence(mean, log_variance)} if self.kl else {}
        return generator(batch["label"], z), terms

    @torch.no_grad()
    def translate(self, batch: Batch) -> Tensor:
        """Tumour images (N, C, H, W) in [-1, 1] from `label` alone; with `vae` at z = 0."""
        label = batch["label"]
        if not self.vae:
            return self.networks["generator"](label)
        return self.networks["generator"](label, torch.zeros(len(label), self.latent, device=label.device))

    @torch.no_grad()
    def sample(self, batch: Batch, count: int, generator: torch.Generator | None = None) -> Tensor:
        """`count` tumour images for each label, (N, count, C, H, W), each with its own z from the prior N(0, 1).

        z is drawn by `generator`, or from torch's global random state on the CPU; the same seed gives the same images.
        Raises UserError without `vae`.
        """
        if not self.vae:
            return super().sample(batch, count, generator)
        label = batch["label"]
        source = torch.device("cpu") if generator is None else generator.device
        draws = torch.randn(count, len(label), self.latent, generator=generator, device=source).to(label.device)
        return torch.stack([self.networks["generator"](label, z) for z in draws], dim=1)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The columns anatomy (not an input), label, generated, real; with `vae` reconstructed: z from `tumour`."""
        columns = super().pictures(batch)
        if self.vae:
            mean, _ = self.networks["encoder"](batch["tumour"])
            columns["reconstructed"] = self.networks["generator"](batch["label"], mean)
        return columns
