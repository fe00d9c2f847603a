"""SEAN's generator: from a label map and a style per region to an image (Zhu et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from metgan_dist.networks.dimensions import scaled
from metgan_dist.networks.region_style import STYLE
from metgan_dist.networks.sean import SeanBlock
from metgan_dist.networks.spade import HIDDEN
from metgan_dist.networks.spade_generator import LabelGenerator


class SeanGenerator(LabelGenerator):
    """Label map and styles (and, as part of a VAE, a latent vector) to image.

    SPADE's trunk of SEAN blocks, the last of which takes no style.

    Args:
        width: multiplier of all channel numbers, the length of a style included (at least 2; SPADE's hidden channels
            at least 8); 1 is the paper.
        channels, classes, latent, edges: see `LabelGenerator`.

    `style` is the length of a style vector, 512 at width 1.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        *,
        width: float = 1.0,
        latent: int | None = None,
        edges: Sequence[int] | None = None,
    ) -> None:
        style, hidden = scaled(STYLE, width), scaled(HIDDEN, width, least=8)
        super().__init__(
            channels,
            classes,
            lambda i, o, level: SeanBlock(i, o, classes, style if level else 0, hidden=hidden),
            width=width,
            latent=latent,
            edges=edges,
        )
        self.style = style

    def forward(self, label: Tensor, styles: Tensor, z: Tensor | None = None) -> Tensor:
        """Image (N, channels, H, W) in [-1, 1] of a label map (N, H, W) of integers 0..classes-1.

        Args:
            label: H and W multiples of 32, with `latent` those of `edges`.
            styles: (N, classes, style) in [-1, 1], as a style encoder gives them.
            z: (N, latent), normally distributed; there if and only if the generator has a latent vector.

        Raises ValueError when one of them is not so.
        """
        if styles.shape[1:] != (self.classes, self.style):
            raise ValueError(f"styles (N, {self.classes}, {self.style}) expected, got {tuple(styles.shape)}")
        return self._image(label, z, styles)
