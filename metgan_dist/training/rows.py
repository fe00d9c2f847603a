"""Which tiles a training draws from, and which it is scored on: pairs, two domains apart, or the labelled target alone.

A method whose terms never compare an anatomy image with the tumour image of its own place trains on images of two
domains too, whose volumes are no pairs, and on pairs taken as none (`data.unpaired`). The segmentors, which see tumour
images alone, learn from the labelled tiles of the target domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.methods import METHODS, method_class
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.methods.rows import PairRecipe
from metgan_dist.scores.scored import IMAGE_SCORES
from metgan_dist.tiles.splits import segmentor_and_judge
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.training.assignment import PARTS, Part


@dataclass(frozen=True)
class TrainingRows:
    """Rows of a tile set to train on; with `target`, they give the anatomy and those the tumour images, drawn apart."""

    rows: np.ndarray
    target: np.ndarray | None = None

    @property
    def epoch(self) -> int:
        """Images of an epoch: a pass over the tiles, over those of the larger domain where there are two."""
        return max(len(self.rows), 0 if self.target is None else len(self.target))


def training_rows(recipe: Recipe, tiles: TileSet, part: Part | None = None) -> TrainingRows:
    """What the recipe's method trains on; a segmentor with a `part` on that part of its tiles."""
    if "anatomy" not in method_class(recipe.method.name).learns_from:
        return TrainingRows(segmentor_rows(tiles, part))
    if recipe.data.unpaired or tiles.domains:
        return TrainingRows(tiles.positions("train", "anatomy"), tiles.positions("train", "tumour"))
    return TrainingRows(tiles.positions("train"))


def segmentor_rows(tiles: TileSet, part: Part | None = None) -> np.ndarray:
    """Training tiles with a tumour image and its label: all, or the frozen segmentor's part or the judge's."""
    if part is None:
        return tiles.positions("train", "tumour", "label")
    labelled = tiles.with_roles("tumour", "label")
    index = tiles.index.assign(fold=np.where(labelled, tiles.index["fold"], -1))
    return segmentor_and_judge(index)[PARTS.index(part)]


def scored_rows(recipe: Recipe, tiles: TileSet, split: str) -> np.ndarray:
    """Tiles of a split that the method is scored on: of two domains the source's, for a segmentor the target's."""
    translates = "anatomy" in method_class(recipe.method.name).learns_from
    return tiles.positions(split, "anatomy") if translates else tiles.positions(split, "tumour", "label")


def check_apart(recipe: Recipe, domains: Sequence[str] = ()) -> None:
    """UserError where anatomy and tumour images are drawn apart, and the recipe's method or choice needs pairs.

    domains: those of the data, where it has any.
    """
    name, keep = recipe.method.name, recipe.training.keep
    if not (recipe.data.unpaired or domains):
        return
    if not method_class(name).unpaired(recipe):
        why = f"images of two domains ({', '.join(domains)}) are no pairs" if domains else "data.unpaired parts them"
        remedy = "set method.alpha4 to 0, or " if method_class(name).unpaired(_without_pair_loss(recipe)) else ""
        raise UserError(
            f"method.name: {name} learns from anatomy and tumour images of one place, but {why}; {remedy}use "
            f"{_unpaired_methods()}"
        )
    if domains and keep in IMAGE_SCORES:
        raise UserError(
            f"training.keep: {keep} compares with the real image of the same place, which images of two domains do not "
            "have; use last or label_fidelity"
        )


def _without_pair_loss(recipe: Recipe) -> Recipe:
    if not isinstance(recipe.method, PairRecipe):
        return recipe
    return recipe.model_copy(update={"method": recipe.method.model_copy(update={"alpha4": 0.0})})


def _unpaired_methods() -> str:
    """The methods that train unpaired with their own papers' settings, in words."""
    recipes = {name: Recipe.model_validate({"method": {"name": name}}) for name in METHODS}
    *names, last = (name for name, recipe in recipes.items() if METHODS[name].unpaired(recipe))
    return f"{', '.join(names)} or {last}"
