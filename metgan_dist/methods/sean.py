"""SEAN and SEAN+VAE as the MetGAN papers' baselines: images from labels and a style per region (Zhu et al. 2020).

The papers name SEAN+VAE and say no more of it. Here it is SEAN with SPADE's variational auto-encoder: what an encoder
says of the image takes the place of the label at the generator's coarsest features, and the styles stay SEAN's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metgan_dist.methods.method import Batch
from metgan_dist.methods.variational import Variational
from metgan_dist.networks import region_style
from metgan_dist.networks.image_encoder import ImageEncoder
from metgan_dist.networks.initialise import initialise_xavier
from metgan_dist.networks.multiscale import MultiscaleDiscriminator
from metgan_dist.networks.region_style import MeanStyle, StyleEncoder
from metgan_dist.networks.sean import ClassLinear
from metgan_dist.networks.sean_generator import SeanGenerator

GAIN = 0.02


class Sean(Variational):
    """Generator from the label and the style of each of its regions; the styles come from images.

    In training an image gives the styles for its own label. At inference there is no tumour image, so `translate` takes
    the mean style of each class over the training, which the network `mean_style` keeps; `sample` draws z alone, in the
    same mean styles. The norms' noise is left out in eval mode: an output depends on its label alone. `encode_styles`,
    `mix_styles` and `generate_from_styles` are SEAN's editing.

    Args: see `Variational`; `vae` makes it SEAN+VAE, and `width` multiplies the length of a style, too.
    """

    inference = ("generator", "style_encoder", "mean_style")

    @classmethod
    def build(
        cls, channels: int, classes: int, *, width: float, latent: int | None, edges: Sequence[int] | None
    ) -> dict[str, nn.Module]:
        """Also `style_encoder` and `mean_style`; see `Variational.build`."""
        generator = SeanGenerator(channels, classes, width=width, latent=latent, edges=edges)
        networks: dict[str, nn.Module] = {
            "generator": generator,
            "style_encoder": StyleEncoder(channels, classes, width=width),
            "mean_style": MeanStyle(classes, generator.style),
        }
        if latent is not None:
            assert edges is not None  # SeanGenerator has asked for them
            networks["encoder"] = ImageEncoder(channels, edges, latent=latent, width=width)
        networks["discriminator"] = MultiscaleDiscriminator(
            channels, condition_channels=classes, layers=3, last_stride=2, width=width
        )
        return {name: _initialised(network) for name, network in networks.items()}

    def generate(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Images of `label` in the styles of `tumour`; with `vae` z of `tumour` and the term `kl`.

        In training mode the mean style takes the batch's styles in.
        """
        image, label = batch["tumour"], batch["label"]
        styles = self.networks["style_encoder"](image, label)
        if self.training:
            self._mean_style().update(styles, label)
        z, terms = self.encode(image) if self.vae else (None, {})
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

    def from_label(self, label: Tensor, z: Tensor | None) -> Tensor:
        """In the mean styles; see `Variational.from_label`."""
        return self.generate_from_styles(label, self.mean_styles(len(label)), z)

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
