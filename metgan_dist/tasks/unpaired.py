"""Unpaired translation: images of a source domain are to look like those of a target, of which none is of their place.

So there is no true image to compare with. What can be told is how far the cycle brings the source image back, and what
the judge of the target finds in translated images of the labels of their sources, beside what it finds in the target's
own labelled tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.methods import METHODS, method_class
from metgan_dist.recipe import MethodRecipe, Recipe
from metgan_dist.scores.column import columns
from metgan_dist.scores.scored import IMAGE_SCORES, Scored
from metgan_dist.tasks.task import REAL, Drawn, Maker
from metgan_dist.tasks.translation import Translation


class Unpaired(Translation):
    """Scored are the tiles of the source; the real images are those of the target, and the same for all of them.

    `judges` may hold `judge_source` beside the target's `judge`: it finds labels in images of the source.
    """

    name = "unpaired"
    fields = ("anatomy",)
    columns = columns("cycle_mae", "fid", "kid", "label_fidelity")
    error = ("cycle_mae", "cycle MAE")

    def drawn(self, recipe: Recipe, part: str | None = None) -> Drawn:
        """The training tiles of either domain."""
        return Drawn(self.tiles.positions("train", "anatomy"), self.tiles.positions("train", "tumour"))

    def beside(self, say: Callable[[str], None]) -> dict[str, Maker]:
        """None: what they would be fitted to are pairs."""
        say("MAE, identity and affine: left out, images of two domains are no pairs")
        return {}

    def notes(self, split: str) -> list[str]:
        """Of which domain the images are."""
        if not self.tiles.domains:
            return []
        source, target = self.tiles.domains
        count = len(self.compared(split)[REAL])
        return [
            f"Translated are the tiles of {source}. Real images are {count} tiles of {target}, of other places: no "
            "image has a true one, and the error of the cycle says nothing of what lies between (a copy has none)."
        ]

    def of(self, name: str, scored: Scored, rows: np.ndarray) -> Scored:
        """What was scored of some source tiles; of real images, which are of other tiles, all."""
        return scored if name in self.of_real else scored.of(rows)


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
    return recipe.model_copy(update={"method": recipe.method.model_copy(update={"alpha4": 0.0})})


def _unpaired_methods() -> str:
    """The methods that train unpaired with their own papers' settings, in words."""
    recipes = {name: Recipe(method=MethodRecipe(name=name)) for name in METHODS}
    *names, last = (name for name, recipe in recipes.items() if METHODS[name].unpaired(recipe))
    return f"{', '.join(names)} or {last}"
