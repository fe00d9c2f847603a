"""PatchGAN: a convolutional discriminator that judges overlapping patches."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from metgan_dist.networks.dimensions import layers_of, scaled

STROKE: Mapping[str, Any] = MappingProxyType({"layers": 3, "base": 32, "unstrided": 0, "norm_first": True})
"""Paper 4's discriminator."""


class PatchGAN(nn.Module):
    """4x4 convolutions, `layers` of them with stride 2, then `unstrided` and a last one with stride 1; a logit a patch.

    InstanceNorm (without parameters) and LeakyReLU 0.2 between them; no norm on the last, and none on the first unless
    `norm_first`. Three layers of base 64 see 70x70 pixels and have 2,762,689 parameters at one channel (papers 1, 2).

    Paper 4's discriminator (appendix A.3.1; `STROKE`) is C32-C64-C128, each with stride 2 and a norm, and a last
    convolution of stride 1: 166,625 parameters at one channel, 512 for each channel of a condition, and a field of
    46 x 46 pixels. The paper states 34 x 34, which two layers of stride 2 see, and 888,898 parameters, which
    convolutions of these widths do not have, whatever their strides and however many channels a condition has.

    Args:
        channels: channels of the image that is judged.
        condition_channels: channels of the condition that comes with it; 0 for an unconditional discriminator.
        layers: convolutions with stride 2.
        base: channels of the first convolution at width 1; doubled per layer, at most eightfold.
        unstrided: convolutions of stride 1 between these and the last.
        norm_first: whether the first convolution has a norm, too.
    """

    def __init__(
        self,
        channels: int = 1,
        *,
        condition_channels: int = 0,
        layers: int = 3,
        base: int = 64,
        width: float = 1.0,
        dimensions: int = 2,
        unstrided: int = 1,
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        classes = layers_of(dimensions)
        self.condition_channels = condition_channels
        widths = [scaled(base * min(2**depth, 8), width) for depth in range(layers + unstrided)]
        modules: list[nn.Module] = []
        incoming = channels + condition_channels
        for depth, outgoing in enumerate(widths):
            stride = 2 if depth < layers else 1
            # With a bias before a norm, too, which the norm takes away: the authors' count has it.
            modules.append(classes.convolution(incoming, outgoing, kernel_size=4, stride=stride, padding=1))
            # A norm on the first would hide from it how bright the image is and how strong its contrast.
            if depth > 0 or norm_first:
                modules.append(classes.instance_norm(outgoing))
            modules.append(nn.LeakyReLU(0.2, inplace=True))
            incoming = outgoing
        modules.append(classes.convolution(incoming, 1, kernel_size=4, stride=1, padding=1))
        self.model = nn.Sequential(*modules)

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        """Logits (N, 1, h, w) of `image` (N, channels, H, W), high for real; no sigmoid.

        Real and fake take this same path, so the condition is always concatenated in the same order. Raises ValueError
        when a condition is missing or not expected.
        """
        return self.features(image, condition)[-1]

    def features(self, image: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """What each convolution but the last makes, (N, c, h, w) after norm and activation; then `forward`'s logits."""
        given = 0 if condition is None else condition.shape[1]
        if given != self.condition_channels:
            raise ValueError(f"a condition of {self.condition_channels} channels expected, got {given}")
        x = image if condition is None else torch.cat([condition, image], dim=1)
        made = []
        for layer in self.model:
            x = _in_full_precision(layer, x) if _longer_than_edges(layer, x) else layer(x)
            if isinstance(layer, nn.LeakyReLU):
                made.append(x)
        return [*made, x]


class PatchGANFeatures(PatchGAN):
    """A PatchGAN that gives what a `MultiscaleDiscriminator` of one scale does, for losses that compare features."""

    def forward(self, image: Tensor, condition: Tensor | None = None) -> list[list[Tensor]]:  # type: ignore[override]
        """One list: the features of every layer (N, c, h, w) and last the logits (N, 1, h, w)."""
        return [self.features(image, condition)]


def _longer_than_edges(layer: nn.Module, x: Tensor) -> bool:
    """Whether a kernel is longer than an edge of what it sees, on a CPU that is to multiply in bfloat16.

    The gradient of its weights is then not that of the loss, often infinite (oneDNN on CPUs with AVX512-BF16).
    """
    if not isinstance(layer, nn.Conv2d | nn.Conv3d) or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    return min(x.shape[2:]) < max(layer.kernel_size)


def _in_full_precision(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        result: Tensor = layer(x.float())
    return result


def shortest_edge(layers: int = 3, unstrided: int = 1) -> int:
    """The shortest edge of an image of which a PatchGAN with so many layers makes one logit, in pixels."""
    # Each convolution of stride 1 takes one pixel away, and the last features must be one.
    return (2 + unstrided) * 2**layers
