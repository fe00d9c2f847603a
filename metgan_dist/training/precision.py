"""Which precision `training.precision` means on the device at hand, and how weights lie in memory for it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16"]


def resolved(wanted: str, device: torch.device) -> Precision:
    """`auto` as bf16 where the device multiplies in bfloat16 natively, else fp32; `fp32` and `bf16` as they are.

    CPUs that only emulate bfloat16 would be slower with it than with float32.
    """
    if wanted == "auto":
        return "bf16" if _native_bf16(device) else "fp32"
    return "bf16" if wanted == "bf16" else "fp32"


def autocast_dtype(wanted: str, device: torch.device) -> torch.dtype | None:
    """The dtype of mixed precision that `wanted` (auto, fp32, bf16) means; None for float32."""
    return torch.bfloat16 if resolved(wanted, device) == "bf16" else None


def _native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    # Private, but all that torch tells of a CPU's instructions: AMX or AVX512-BF16.
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def lay_out(network: nn.Module, device: torch.device, autocast: torch.dtype | None) -> None:
    """Bring weights, in place, to the order in memory in which the device works fastest in this precision.

    On CPUs bfloat16 convolutions want all channels of a pixel together; with images plane by plane they reorder them
    before and after each. Float32 ones gain nothing by it.
    """
    if device.type != "cpu" or autocast is None:
        return
    volumes = any(weight.dim() == 5 for weight in network.parameters())
    order = torch.channels_last_3d if volumes else torch.channels_last
    network.to(memory_format=order)  # type: ignore[call-overload]  # torch's own annotations leave it out
