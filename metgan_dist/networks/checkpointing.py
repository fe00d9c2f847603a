"""Gradient checkpointing: levels of a network that keep their input alone and are computed again when gradients come."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def through(level: nn.Module, *inputs: Tensor, checkpointed: bool) -> Tensor:
    """`level(*inputs)`; with `checkpointed` its inner activations are not kept, but made again in the backward pass.

    The gradients are the same, bit for bit in float32. For levels without random numbers: their state is not restored.
    """
    if checkpointed and torch.is_grad_enabled():
        from torch.utils.checkpoint import checkpoint  # loads more of torch than most processes need

        # Not the reentrant form, which gives no gradient where only parameters need one, and none through autograd.grad.
        return checkpoint(level, *inputs, use_reentrant=False, preserve_rng_state=False)
    return level(*inputs)
