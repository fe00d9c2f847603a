"""The methods of the papers, by the name that recipes give them (`method.name`).

A new method is a new file here and one line in METHODS; its section of the recipe is in metgan_dist/recipe/methods/.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import nn

from metgan_dist.errors import UserError
from metgan_dist.methods.cycle_shape import CycleShape
from metgan_dist.methods.lesion_wgan import LesionWGAN
from metgan_dist.methods.metgan import MetGAN
from metgan_dist.methods.method import Method, Player, Stage
from metgan_dist.methods.pix2pix_stroke import Pix2PixStroke
from metgan_dist.methods.redgan import RedGan
from metgan_dist.methods.rows import ROWS
from metgan_dist.methods.sean import Sean
from metgan_dist.methods.segmentor import (
    Segmentor,
    SegmentorNetwork,
    build_segmentor_network,
    judge_recipe,
    segmentor_recipe,
)
from metgan_dist.methods.sifa import SIFA
from metgan_dist.methods.singan import SinGAN
from metgan_dist.methods.sizes import check_dimensions, check_edges_fit
from metgan_dist.methods.spade import Spade
from metgan_dist.methods.spade_stroke import SpadeStroke
from metgan_dist.networks.recompute import recompute_blocks
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.methods import no_such_method

__all__ = [
    "METHODS",
    "Method",
    "Player",
    "SegmentorNetwork",
    "Stage",
    "build_method",
    "build_segmentor_network",
    "check_method",
    "check_methods",
    "check_named_segmentors",
    "check_tile_size",
    "enter_stage",
    "method_class",
    "needs_segmentor",
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
        "pix2pix_stroke": Pix2PixStroke,
        "spade_stroke": SpadeStroke,
        "lesion_wgan": LesionWGAN,
        "singan": SinGAN,
        "segmentor": Segmentor,
    }
)


def method_class(name: str) -> type[Method]:
    """The class of a method; UserError, with the nearest name, where there is none."""
    if name not in METHODS:
        raise UserError(f"method.name: {no_such_method(name, list(METHODS))}")
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
    if recipe.training.checkpoint_gradients:
        recompute_blocks(method)
    method.seed_pools(recipe.training.seed)
    return method


def enter_stage(method: Method, recipe: Recipe, stage: Stage) -> None:
    """Let `stage` begin: networks that it adds get weights that depend on `training.seed` and its name alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(zlib.crc32(f"{recipe.training.seed} {stage.name}".encode()))
        method.enter(stage)
    if recipe.training.checkpoint_gradients:
        recompute_blocks(method)


def check_tile_size(recipe: Recipe, edge: int | Sequence[int]) -> None:
    """Check that tiles of `edge` pixels (one number, or one per axis), as they reach the networks, can be trained on.

    Raises UserError in one line, naming the field, where the recipe's tiles are of other dimensions than
    `method.name` takes, or their edges do not fit it.
    """
    chosen = method_class(recipe.method.name)
    fitting = [name for name, other in METHODS.items() if recipe.tiles.dimensions in other.dimensions]
    check_dimensions(chosen, recipe, [name for name in fitting if name != "segmentor"])
    check_edges_fit(chosen, recipe, (edge,) * recipe.tiles.dimensions if isinstance(edge, int) else edge)


def check_method(recipe: Recipe, edges: Sequence[int]) -> None:
    """UserError for what keeps `method.name` from being trained on tiles of these edges as the recipe says."""
    check_tile_size(recipe, edges)
    method_class(recipe.method.name).check(recipe)


def check_methods(recipe: Recipe, edges: Sequence[int]) -> None:
    """`check_method` of the recipe's method and of the segmentors that are trained for it."""
    check_method(recipe, edges)
    if needs_segmentor(recipe) and recipe.method.segmentor is None:
        check_method(segmentor_recipe(recipe), edges)
    if method_class(recipe.method.name).judged and recipe.method.judge is None:
        check_method(judge_recipe(recipe), edges)


def check_named_segmentors(recipe: Recipe, variants: Sequence[Recipe] = ()) -> None:
    """UserError for a trained segmentor or judge that the recipe names and its method has no use for.

    `variants`: the recipe with other losses, of which one may have a use for the segmentor.
    """
    name = recipe.method.name
    if recipe.method.segmentor and not any(needs_segmentor(one) for one in (recipe, *variants)):
        raise UserError(f"method.segmentor: {name} is trained without a segmentor; leave it out")
    for field in ("judge", "judge_source"):
        if getattr(recipe.method, field) and not method_class(name).judged:
            raise UserError(f"method.{field}: no segmentor looks at what {name} makes; leave it out")


def needs_segmentor(recipe: Recipe) -> bool:
    """Whether the recipe's method is trained with a frozen segmentor."""
    return "segmentor" in method_class(recipe.method.name).needs(recipe)
