"""The methods of the papers, by the name that recipes give them (`method.name`).

A new method is a new file here and one line in METHODS.
"""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import nn

from metgan_dist.errors import UserError
from metgan_dist.methods.cycle_shape import CycleShape
from metgan_dist.methods.metgan import MetGAN
from metgan_dist.methods.method import Method, Player, Stage
from metgan_dist.methods.redgan import RedGan
from metgan_dist.methods.rows import ROWS
from metgan_dist.methods.sean import Sean
from metgan_dist.methods.segmentor import Segmentor, SegmentorNetwork, build_segmentor_network
from metgan_dist.methods.sifa import SIFA
from metgan_dist.methods.spade import Spade
from metgan_dist.recipe import Recipe

__all__ = [
    "METHODS",
    "Method",
    "Player",
    "SegmentorNetwork",
    "Stage",
    "build_method",
    "build_segmentor_network",
    "check_tile_size",
    "enter_stage",
    "method_class",
]

METHODS: MappingProxyType[str, type[Method]] = MappingProxyType(
    {
        **dict.fromkeys(ROWS, MetGAN),
        "spade": Spade,
        "spade_vae": Spade,
        "sean": Sean,
        "sean_vae": Sean,
        "sifa": SIFA,
        "redgan": RedGan,
        "cycle_shape": CycleShape,
        "segmentor": Segmentor,
    }
)

# Both U-Nets halve an image six times.
DIVISOR = 64


def method_class(name: str) -> type[Method]:
    """The class of a method; UserError, with the nearest name, where there is none."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.0)
        raise UserError(f"method.name: no method {name!r}; did you mean {near[0]}? known: {', '.join(METHODS)}")
    return METHODS[name]


def build_method(recipe: Recipe, segmentor: nn.Module | None = None, perceptual: nn.Module | None = None) -> Method:
    """The method `method.name` with fresh weights that depend on `training.seed` alone, the same on every worker.

    `segmentor` is the trained one that judges the generator, `perceptual` the VGG19 of the perceptual loss. Raises
    UserError when the name is unknown.
    """
    chosen = method_class(recipe.method.name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.training.seed)
        method = chosen.from_recipe(recipe, segmentor, perceptual)
    method.seed_pools(recipe.training.seed)
    return method


def enter_stage(method: Method, recipe: Recipe, stage: Stage) -> None:
    """Let `stage` begin: networks that it adds get weights that depend on `training.seed` and its name alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(zlib.crc32(f"{recipe.training.seed} {stage.name}".encode()))
        method.enter(stage)


def check_tile_size(recipe: Recipe, edge: int | Sequence[int]) -> None:
    """Check that tiles of `edge` pixels (one number, or one per axis), as they reach the networks, can be trained on.

    Raises UserError, naming `tiles.size` (or `tiles.resize`, where that sets the edge), when an edge is no multiple of
    64, or when the coarsest level would hold a single value per channel, which BatchNorm cannot normalise.
    """
    field = "tiles.size" if recipe.tiles.resize is None else "tiles.resize"
    edges = (edge,) if isinstance(edge, int) else tuple(edge)
    if recipe.tiles.resize is not None and any(pixels % DIVISOR for pixels in edges if pixels != max(edges)):
        raise UserError(
            f"tiles.size: {_by(recipe.tiles.size)} resized to {recipe.tiles.resize} is {_by(edges)} pixels, and the "
            f"networks need multiples of {DIVISOR}; change its proportions"
        )
    for pixels in edges:
        if pixels < 1 or pixels % DIVISOR:
            below = max(pixels // DIVISOR, 1) * DIVISOR
            raise UserError(
                f"{field}: tiles of {pixels} pixels do not fit the networks, which need a multiple of {DIVISOR}; "
                f"use {below} or {below + DIVISOR}" + (", or set tiles.resize" if field == "tiles.size" else "")
            )
    if all(pixels == DIVISOR for pixels in edges) and recipe.training.batch_size * recipe.scaling.processes == 1:
        raise UserError(
            f"{field}: a batch of one tile of {DIVISOR} pixels leaves BatchNorm a single value at the coarsest level; "
            f"use {2 * DIVISOR} pixels or set training.batch_size to 2"
        )


def _by(edges: Sequence[int]) -> str:
    return " x ".join(map(str, edges))
