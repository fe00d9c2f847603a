"""Inception features of tiles, the common ground of FID and KID: pytorch-fid's network with its published weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metgan_dist.scores.colour import as_rgb
from metgan_dist.weights import torch_hub

FEATURES = 2048


class InceptionFeatures:
    """pytorch-fid's InceptionV3 up to the final average pooling.

    `weights` is the SHA-256 of the weights: features of different weights must not meet in one score.

    Raises UserError if the Inception weights are missing or damaged, see `metgan_dist.weights`.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        from pytorch_fid.inception import InceptionV3  # loads torchvision and torch's compiler

        with torch_hub("inception") as weights:
            self.network = InceptionV3().eval().to(device)
        self.device = device
        self.weights = weights.sha256

    @torch.no_grad()
    def __call__(self, images: Tensor) -> np.ndarray:
        """Features of a batch of tiles.

        Args:
            images: (N, C, H, W), any floating type, device and size, values in [-1, 1]. Each channel is a grey image,
                repeated three times. As in pytorch-fid, the values are brought to [0, 1] and the network resizes to 299
                x 299 (bilinear, no antialiasing) and scales. Unlike images that pytorch-fid reads from files, the
                values are not rounded to 8 bits.

        Returns:
            (N, C, 2048) float32.

        Raises:
            UserError: volumes.
        """
        photographs = (as_rgb(images, "FID and KID").to(self.device) + 1) / 2
        # Published FIDs are of float32 features; those of half precision lie elsewhere.
        with torch.autocast(torch.device(self.device).type, enabled=False):
            features = self.network(photographs)[0]
        return features.view(*images.shape[:2], FEATURES).cpu().numpy()
