"""Label-to-image GANs that may start from a latent vector z: one label map then has many images."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from metgan_dist.methods.label_to_image import LabelToImage
from metgan_dist.methods.method import Batch


class FromLatent(LabelToImage):
    """z (N, `latent`) is N(0, 1) at inference. A subclass says how images are made of it (`from_label`).

    `translate` takes the mean of z's prior, 0, so that an output depends on its label alone, not on random numbers or
    on its place in a batch; or z as a batch holds it, as `latent`. `sample` draws it.

    Attributes:
        latent: numbers of z; 0 where the method has none.
    """

    latent: int = 0

    @abstractmethod
    def from_label(self, label: Tensor, z: Tensor | None) -> Tensor:
        """Tumour images (N, C, H, W) in [-1, 1] of labels (N, H, W) at z (N, latent), None where there is none."""

    def latents(self, count: int, generator: torch.Generator | None = None) -> Tensor | None:
        """See `Method.latents`; by `generator`, or from torch's global random state on the CPU."""
        if not self.latent:
            return None
        source = torch.device("cpu") if generator is None else generator.device
        return torch.randn(count, self.latent, generator=generator, device=source)

    @torch.no_grad()
    def translate(self, batch: Batch) -> Tensor:
        """Tumour images (N, C, H, W) in [-1, 1] from `label`; with a z, at that of `latent` (N, latent), else at 0."""
        label = batch["label"]
        z = None
        if self.latent:
            z = batch["latent"] if "latent" in batch else torch.zeros(len(label), self.latent, device=label.device)
        return self.from_label(label, z)

    @torch.no_grad()
    def sample(self, batch: Batch, count: int, generator: torch.Generator | None = None) -> Tensor:
        """`count` tumour images for each label, (N, count, C, H, W), each with its own z from the prior.

        z is drawn as `latents` draws it; the same seed gives the same images. Raises UserError without a z.
        """
        label = batch["label"]
        draws = self.latents(count * len(label), generator)
        if draws is None:
            return super().sample(batch, count, generator)
        # A forward pass for each draw: memory stays that of one batch, however many are asked for.
        parts = draws.to(label.device).view(count, len(label), self.latent)
        return torch.stack([self.from_label(label, z) for z in parts], dim=1)
