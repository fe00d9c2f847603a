"""The U-Net of pix2pix (Isola et al., CVPR 2017, section 6.1.1): U-Net-256 after the image size of its eight downs.

One channel in and out, eight downs: 54,407,809 parameters. In 3D the kernels have a third axis of the same length.
Paper 4's form of it for 128 pixels, seven downs (appendix A.2): 41,819,521, and 1,024 for each further channel in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from metgan_dist.networks.dimensions import check_edges, halvings, layers_of, scaled
from metgan_dist.networks.recompute import Recomputable

MOST_DOWNS, LEAST_DOWNS = 8, 5
# Decoder stages with dropout, counted from the innermost: CD512-CD512-CD512 in the paper's notation.
DROPOUT_STAGES = 3


def downs_of(*edges: int) -> int:
    """How often every edge of an image halves, at most 8 times: the `downs` of a U-Net for this size.

    Raises ValueError when an edge is no multiple of 32, which leaves fewer than 5.
    """
    check_edges(edges, 2**LEAST_DOWNS, 2**LEAST_DOWNS)
    return min(halvings(edges, MOST_DOWNS))


class DecoderStage(Recomputable):
    """ReLU, 4x4 transposed convolution of stride 2, BatchNorm; dropout 0.5 on request."""

    def __init__(self, in_channels: int, out_channels: int, *, dropout: bool, dimensions: int = 2) -> None:
        super().__init__()
        layers = layers_of(dimensions)
        self.up = layers.transposed(in_channels, out_channels, kernel_size=4, stride=2, padding=1, bias=False)
        self.norm = layers.batch_norm(out_channels)
        self.dropout = dropout

    def forward(self, x: Tensor, noise: bool) -> Tensor:
        """(N, C, H, W) to (N, out_channels, 2H, 2W); `noise` switches the dropout on, whatever the mode."""
        x = self.norm(self.up(functional.relu(x)))
        return functional.dropout(x, 0.5, training=noise) if self.dropout else x


class Enlarging(nn.Module):
    """LeakyReLU 0.2, nearest upsampling by 2, 4x4 convolution with a bias."""

    def __init__(self, in_channels: int, out_channels: int, *, dimensions: int = 2) -> None:
        super().__init__()
        self.convolution = layers_of(dimensions).convolution(in_channels, out_channels, kernel_size=4)
        # An even kernel looks one pixel further to the right and down than to the left and up.
        self.padding = (1, 2) * dimensions

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, 2H, 2W)."""
        x = functional.interpolate(functional.leaky_relu(x, 0.2), scale_factor=2, mode="nearest")
        return self.convolution(functional.pad(x, self.padding))


class EnlargingStage(Recomputable):
    """`Enlarging`, LeakyReLU 0.2, dropout, InstanceNorm without parameters (paper 4, A.2)."""

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float, dimensions: int = 2) -> None:
        super().__init__()
        self.up = Enlarging(in_channels, out_channels, dimensions=dimensions)
        self.norm = layers_of(dimensions).instance_norm(out_channels)
        self.dropout = dropout

    def forward(self, x: Tensor, noise: bool) -> Tensor:
        """(N, C, H, W) to (N, out_channels, 2H, 2W); `noise` switches the dropout on, whatever the mode."""
        x = functional.leaky_relu(self.up(x), 0.2)
        return self.norm(functional.dropout(x, self.dropout, training=noise))


class UNet256(nn.Module):
    """Generator of pix2pix: 4x4 convolutions of stride 2 from 64 to 512 channels and back, with skips at every size.

    LeakyReLU 0.2 on the way down, ReLU on the way up, BatchNorm on all but the first, the innermost and the last
    convolution. The innermost has none because an image may be a single pixel there, which BatchNorm would turn into
    zero at batch 1. As released, only the last convolution has a bias.

    Dropout is this network's only source of noise. It sits in the decoder's three innermost 512-channel stages (one or
    two where fewer downs leave no more), is on in training mode, and at inference where `stochastic` says so.

    With `resizing` it is the generator of paper 4: InstanceNorm without parameters, on the first convolution too (it
    would turn an innermost pixel into zero, so there is none there either); nearest upsampling and 4x4 convolutions of
    stride 1 instead of transposed ones, with LeakyReLU and dropout before their norm, at every stage; each convolution
    has a bias.

    Args:
        in_channels, out_channels: channels of the image and of the output.
        width: multiplier of all channel numbers (at least 2 channels remain).
        downs: halvings, 5 to 8; `downs_of` gives the number for an image size.
        stochastic: keep dropout on in eval mode; an attribute that can be changed at any time.
        dimensions: 2 for (N, C, H, W), 3 for (N, C, D, H, W).
        resizing: paper 4's form.
        dropout: with `resizing`, share of the features that a stage drops.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: float = 1.0,
        downs: int = 8,
        stochastic: bool = False,
        dimensions: int = 2,
        resizing: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        layers = layers_of(dimensions)
        if not LEAST_DOWNS <= downs <= MOST_DOWNS:
            raise ValueError(f"downs must be within {LEAST_DOWNS}..{MOST_DOWNS}, not {downs}")
        self.divisor = 2**downs
        self.stochastic = stochastic
        self.resizing = resizing
        channels = [scaled(64 * min(2**level, 8), width) for level in range(downs)]
        norm, first_normed = (layers.instance_norm, 0) if resizing else (layers.batch_norm, 1)
        self.encoder, self.norms = nn.ModuleList(), nn.ModuleList()
        incoming = in_channels
        for level, outgoing in enumerate(channels):
            self.encoder.append(
                layers.convolution(incoming, outgoing, kernel_size=4, stride=2, padding=1, bias=resizing)
            )
            self.norms.append(norm(outgoing) if first_normed <= level < downs - 1 else nn.Identity())
            incoming = outgoing
        self.decoder = nn.ModuleList()
        for stage, outgoing in enumerate(reversed(channels[:-1])):
            # The last four stages leave the 512 channels, so a U-Net of five downs has one stage with dropout.
            drops = stage < min(DROPOUT_STAGES, downs - 4)
            self.decoder.append(
                EnlargingStage(incoming, outgoing, dropout=dropout, dimensions=dimensions)
                if resizing
                else DecoderStage(incoming, outgoing, dropout=drops, dimensions=dimensions)
            )
            incoming = 2 * outgoing
        self.output: nn.Module
        if resizing:
            self.output = Enlarging(incoming, out_channels, dimensions=dimensions)
        else:
            self.output = layers.transposed(incoming, out_channels, kernel_size=4, stride=2, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W) in [-1, 1].

        Raises ValueError when an edge is no multiple of `divisor`, 2^downs.
        """
        check_edges(image.shape[2:], self.divisor)
        skips = []
        x = image
        for level, (convolution, norm) in enumerate(zip(self.encoder, self.norms, strict=True)):
            # The activation comes first, so skips hold values before theirs. The release activates its skips in place,
            # of which the decoder's ReLU makes the same.
            x = norm(convolution(functional.leaky_relu(x, 0.2) if level else x))
            skips.append(x)
        # The innermost features are what the decoder starts from, not a skip.
        skips.pop()
        noise = self.training or self.stochastic
        for stage in self.decoder:
            x = torch.cat([skips.pop(), stage(x, noise)], dim=1)
        x = self.output(x if self.resizing else functional.relu(x))
        # tanh in float32: near -1 and 1 bfloat16 has steps of 1/256, coarser than an 8-bit image.
        return torch.tanh(x.to(torch.promote_types(x.dtype, torch.float32)))
