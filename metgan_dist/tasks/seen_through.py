"""What a segmentor finds in images of a domain that it does not know, once they are translated into its own.

Sallé et al. (2021) segment T2 images by what was trained on T1: a translator makes T1 images of them first. Crops are
translated plane by plane where the translator is one of slices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metgan_dist.methods.method import Batch, Method
from metgan_dist.methods.segmentor import Segmentor
from metgan_dist.methods.windows import translate_in_windows
from metgan_dist.tasks.joined import Finder

OVERLAP = 0.5  # of windows, where a translator's tiles are smaller than the images


@dataclass(frozen=True)
class Translator:
    """A trained method as a function of images: `back` from its target to its source, else forth.

    window: edges of the tiles that it was trained on, ([D,] H, W).
    """

    method: Method
    window: tuple[int, ...]
    back: bool

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, [D,] H, W) in [-1, 1] of the other domain, of images of one."""
        if images.dim() - 2 == len(self.window):
            return self._translated(images)
        planes = images.transpose(1, 2).flatten(0, 1)  # (N D, C, H, W)
        made = self._translated(planes)
        return made.unflatten(0, (len(images), images.shape[2])).transpose(1, 2)

    def _translated(self, images: Tensor) -> Tensor:
        # Where the labels are is what is to be found: methods that look at some are told of none.
        nothing = torch.zeros_like(images[:, 0], dtype=torch.long)
        role, label = ("tumour", "tumour_label") if self.back else ("anatomy", "label")
        batch: Batch = {role: images, label: nothing, "label": nothing}
        return translate_in_windows(self.method, batch, self.window, overlap=OVERLAP, back=self.back)


def find_through(segmentor: Segmentor, translator: Translator | None = None) -> Finder:
    """What a segmentor finds in the tumour images of a batch, seen through a translator where there is one."""

    def find(batch: Batch) -> Tensor:
        images = batch["tumour"] if translator is None else translator(batch["tumour"])
        return segmentor.network.class_scores(images)

    return find
