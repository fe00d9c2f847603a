"""SPADE and SPADE+VAE as the MetGAN papers' baselines: tumour images from labels alone (Park et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metgan_dist.methods.method import Batch
from metgan_dist.methods.variational import Variational
from metgan_dist.networks.image_encoder import ImageEncoder
from metgan_dist.networks.initialise import initialise_xavier
from metgan_dist.networks.multiscale import MultiscaleDiscriminator
from metgan_dist.networks.spade_generator import SpadeGenerator


class Spade(Variational):
    """Generator from the label; with `vae` from the label and a latent vector z, which stands for the image's style.

    Args: see `Variational`; `vae` makes it SPADE+VAE.
    """

    @classmethod
    def build(
        cls, channels: int, classes: int, *, width: float, latent: int | None, edges: Sequence[int] | None
    ) -> dict[str, nn.Module]:
        """No further networks; see `Variational.build`."""
        networks: dict[str, nn.Module] = {
            "generator": SpadeGenerator(channels, classes, width=width, latent=latent, edges=edges)
        }
        if latent is not None:
            assert edges is not None  # SpadeGenerator has asked for them
            networks["encoder"] = ImageEncoder(channels, edges, latent=latent, width=width)
        networks["discriminator"] = MultiscaleDiscriminator(channels, condition_channels=classes, layers=4, width=width)
        return {name: initialise_xavier(network) for name, network in networks.items()}

    def generate(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Images of `label`; with `vae` in the style of `tumour`, and the term `kl`."""
        z, terms = self.encode(batch["tumour"]) if self.vae else (None, {})
        return self.networks["generator"](batch["label"], z), terms

    def from_label(self, label: Tensor, z: Tensor | None) -> Tensor:
        """Straight from the generator; see `Variational.from_label`."""
        return self.networks["generator"](label, z)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The columns anatomy (not an input), label, generated, real; with `vae` reconstructed: z from `tumour`."""
        columns = super().pictures(batch)
        if self.vae:
            mean, _ = self.networks["encoder"](batch["tumour"])
            columns["reconstructed"] = self.networks["generator"](batch["label"], mean)
        return columns
