"""Which precision `training.precision` means on the device at hand."""

from __future__ import annotations

from typing import Literal

import torch

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
