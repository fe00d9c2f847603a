"""Checkpoints of methods that took no step: what reads a checkpoint needs no training."""

from __future__ import annotations

from pathlib import Path

import torch

from metgan_dist.methods import build_method
from metgan_dist.recipe import Recipe
from metgan_dist.training.checkpoint import save_rank, save_state
from metgan_dist.training.step import Stepper


def write_untrained(folder: Path, recipe: Recipe) -> str:
    """The checkpoint of a training that stopped before its first step, in `folder`, which is made; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    stepper = Stepper(build_method(recipe), torch.device("cpu"))
    save_state(folder, stepper, recipe, {"images": 0})
    save_rank(folder, stepper, 0)
    return str(folder)
