"""Blocks whose inner values are computed again in the backward pass, to be kept no longer than that takes.

Gradients are those of a training that keeps everything, bit for bit in float32: random numbers (dropout, noise) are
drawn again as they were, and buffers (running statistics, spectral norms' vectors) start from where they stood and move
once. Memory then holds what lies between the blocks, at the price of a second forward pass.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class Recomputable(nn.Module):
    """A part of a network that may be computed twice; `recompute` says whether it is, where there are gradients.

    Nobody may change its inputs in place afterwards.
    """

    recompute = False

    def __call__(self, *inputs: Any) -> Any:
        """As any module's, of positional inputs."""
        if not (self.recompute and torch.is_grad_enabled()):
            return super().__call__(*inputs)
        from torch.utils.checkpoint import checkpoint  # loads torch's test tools and compiler, for which few shall wait

        return checkpoint(super().__call__, *inputs, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _BuffersOf(self)


class _BuffersOf(AbstractContextManager[None]):
    """Within it, a module works on copies of the buffers that it had when this was made; changes to them are lost."""

    def __init__(self, module: nn.Module) -> None:
        self._before: list[tuple[dict[str, Tensor | None], str, Tensor]] = [
            (own, name, buffer.clone())
            for own in (part._buffers for part in module.modules())
            for name, buffer in own.items()
            if buffer is not None
        ]
        self._now: list[Tensor | None] = []

    def __enter__(self) -> None:
        self._now = [own[name] for own, name, _ in self._before]
        for own, name, buffer in self._before:
            own[name] = buffer.clone()

    def __exit__(self, *error: object) -> None:
        for (own, name, _), buffer in zip(self._before, self._now, strict=True):
            own[name] = buffer


def recompute_blocks(network: nn.Module) -> None:
    """Let all blocks of `network` that can be computed again be so from now on, in place."""
    for module in network.modules():
        if isinstance(module, Recomputable):
            module.recompute = True
