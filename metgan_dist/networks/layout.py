"""In which order the axes of a 3D convolution's weights lie in memory: what their device multiplies fastest."""

from __future__ import annotations

import torch
from torch import nn


def lay_out(module: nn.Module) -> None:
    """Lay 3D convolutions of stride 1 with channels last where they are on a CPU, as they were elsewhere, in place.

    Convolutions pass the order on to the images between them. A step of 3D networks then takes 0.6 to 1.0 of its time
    (benchmarks/layout.py); strided and transposed ones gain nothing. Values and parameters stay what they are,
    but products are added in another order.
    """
    for convolution in module.modules():
        if isinstance(convolution, nn.Conv3d) and set(convolution.stride) == {1}:
            for weight in convolution.parameters():
                if weight.dim() == 5:
                    on_cpu = weight.device.type == "cpu"
                    order = torch.channels_last_3d if on_cpu else torch.contiguous_format
                    weight.data = weight.data.contiguous(memory_format=order)
