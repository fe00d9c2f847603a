"""LPIPS: how far two images lie apart for a network trained on photographs (Zhang et al. 2018), tile by tile.

The lpips package computes it: AlexNet features, normalised per position, squared differences weighted by the package's
linear heads (version 0.1) and averaged over positions. Tiles keep their size: nothing is resized or cropped, so scores
of tiles of different sizes are not comparable. The published heads were calibrated on 64 x 64 patches.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from metgan_dist.errors import UserError
from metgan_dist.scores.colour import as_rgb
from metgan_dist.weights import score_name, torch_hub

SMALLEST = 31  # pixels along each axis that AlexNet's first convolution and two poolings need


class PerceptualDistance:
    """LPIPS with the AlexNet backbone, lower is better: 0 for equal images, rarely above 1.

    Raises UserError if the AlexNet weights are missing or damaged, see `metgan_dist.weights`.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        import lpips  # loads torchvision and torch's compiler

        with torch_hub("alexnet") as weights, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # lpips asks torchvision in a way that is out of fashion
            self.network = lpips.LPIPS(net="alex", verbose=False).requires_grad_(False).to(device)
        self.device = device
        self.name = score_name("lpips", "alexnet", weights.sha256)

    @torch.no_grad()
    def __call__(self, generated: Tensor, real: Tensor) -> dict[str, np.ndarray]:
        """Score each generated tile against its real tile.

        Args:
            generated, real: (N, C, H, W), any floating type and device, values in [-1, 1] (the range of lpips), H and W
                at least 31; each channel is a grey image, repeated three times. Computed in float32.

        Returns:
            (N,) float64, the mean over channels, under ``lpips``, or ``lpips_unverified`` with other weights.

        Raises:
            ValueError: the shapes differ.
            UserError: the tiles are too small, or volumes.
        """
        if generated.shape != real.shape:
            raise ValueError(f"LPIPS needs two equal batches, got {tuple(generated.shape)} and {tuple(real.shape)}")
        if min(generated.shape[2:]) < SMALLEST:
            size = " x ".join(str(length) for length in generated.shape[2:])
            raise UserError(
                f"tiles.size: {size} is too small for LPIPS; use at least {SMALLEST} pixels along each axis"
            )
        one, other = (as_rgb(images, "LPIPS").to(self.device) for images in (generated, real))
        # The distance of nearly equal images is a small difference of features: half precision leaves little of it.
        with torch.autocast(torch.device(self.device).type, enabled=False):
            distance = self.network(one, other)
        return {self.name: distance.view(len(generated), -1).mean(dim=1).double().cpu().numpy()}
