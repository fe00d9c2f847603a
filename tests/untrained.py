"""Checkpoints of methods that took no step: what reads a checkpoint needs no training."""

from __future__ import annotations

from pathlib import Path

import torch

from metgan_dist.methods import build_method
from metgan_dist.methods.segmentor import SegmentorNetwork
from metgan_dist.networks.dynunet import DynUNet
from metgan_dist.recipe import Recipe
from metgan_dist.training.checkpoint import save_rank, save_state
from metgan_dist.training.step import Stepper


def write_untrained(folder: Path, recipe: Recipe) -> str:
    """The checkpoint of a training that stopped before its first step, in `folder`, which is made; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    method = build_method(recipe)
    for network in method.networks.values():
        if isinstance(network, SegmentorNetwork) and not isinstance(network.unet, DynUNet):
            network.unet.output.reset_parameters()  # so that it finds something: as it begins, it finds nothing
    stepper = Stepper(method, torch.device("cpu"))
    save_state(folder, stepper, recipe, {"images": 0})
    save_rank(folder, stepper, 0)
    return str(folder)
