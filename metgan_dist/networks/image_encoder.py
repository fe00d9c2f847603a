"""The image encoder of SPADE's variational auto-encoder (Park et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from metgan_dist.networks.dimensions import layers_of, scaled
from metgan_dist.networks.spectral import spectral_convolution

# Channels at width 1 of the convolutions, each of which halves the image.
STAGES = (64, 128, 256, 512, 512, 512)
# Shortest edge of the last features: 256 pixels after six halvings, as released.
LEAST_EDGE = 4


class ImageEncoder(nn.Module):
    """Image to mean and log-variance of its latent vector.

    3x3 convolutions of stride 2 with spectral norm, InstanceNorm (so no bias) and LeakyReLU 0.2, then one linear layer
    each. Six at 256 pixels and more; smaller images have one less per halving, so that 4x4 features remain and
    InstanceNorm always has a variance. The released code enlarges small images to 256 pixels instead.

    Args:
        channels: channels of the image.
        edges: its edges, at least 8; the linear layers depend on them.
        latent: numbers of the latent vector.
        width: multiplier of the convolutions' channels.
    """

    def __init__(
        self, channels: int, edges: Sequence[int], *, latent: int = 256, width: float = 1.0, dimensions: int = 2
    ) -> None:
        super().__init__()
        if min(edges) < 2 * LEAST_EDGE:
            raise ValueError(f"image edges {tuple(edges)} must be at least {2 * LEAST_EDGE}")
        stages: list[nn.Module] = []
        incoming, edges = channels, list(edges)
        for paper in STAGES:
            # What a 3x3 convolution of stride 2 with padding 1 leaves of an odd edge, too.
            halves = [(edge + 1) // 2 for edge in edges]
            if min(halves) < LEAST_EDGE:
                break
            outgoing, edges = scaled(paper, width), halves
            convolution = spectral_convolution(
                incoming, outgoing, kernel_size=3, stride=2, padding=1, bias=False, dimensions=dimensions
            )
            norm = layers_of(dimensions).instance_norm(outgoing)
            stages += [convolution, norm, nn.LeakyReLU(0.2, inplace=True)]
            incoming = outgoing
        self.stages = nn.Sequential(*stages, nn.Flatten())
        for edge in edges:
            incoming *= edge
        self.mean, self.log_variance = nn.Linear(incoming, latent), nn.Linear(incoming, latent)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, both (N, latent), of images (N, channels, H, W) in [-1, 1]."""
        features = self.stages(image)
        return self.mean(features), self.log_variance(features)
