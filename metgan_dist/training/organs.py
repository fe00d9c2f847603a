"""Which organs a method is told of: those of the tiles that it is trained on, fixed in the recipe of its checkpoint."""

from __future__ import annotations

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.methods.terms import OrgansRecipe, organs_of
from metgan_dist.tiles.organs import UNKNOWN, organ_numbers
from metgan_dist.tiles.tile_set import SPLITS, TileSet


def with_organs(recipe: Recipe, tiles: TileSet) -> Recipe:
    """The recipe with `method.organs` filled in, where the method is told of organs and the tiles name any.

    Raises UserError, naming the field, when there are to be several global classes and the tiles name no organ, or some
    of them do not, or when there are more organs than classes.
    """
    method = recipe.method
    if not isinstance(method, OrgansRecipe) or method.global_classes == 1:
        return recipe
    names = method.organs or tiles.organs
    if not names:
        if method.global_classes == "auto":
            return recipe
        raise UserError(
            f"method.global_classes: {method.global_classes} classes, but {tiles.uri} names no organ; give its volumes "
            "an `organ` and cut them again, or set it to 1"
        )
    if method.global_classes != "auto" and len(names) > method.global_classes:
        raise UserError(
            f"method.global_classes: {method.global_classes} classes, but there are {len(names)} organs "
            f"({', '.join(names)}) in {tiles.uri}; set it to {len(names)} or auto"
        )
    used = tiles.index["organ"][tiles.index["split"].isin(SPLITS)]
    astray = used[organ_numbers(used, names) == UNKNOWN]
    if len(astray):
        raise UserError(
            f"method.global_classes: {len(astray)} of {len(used)} tiles of {tiles.uri} are of "
            f"{_named(sorted(set(astray)))}, not of {', '.join(names)}; give every volume an `organ` of these, or set "
            "it to 1"
        )
    return recipe.model_copy(update={"method": method.model_copy(update={"organs": tuple(names)})})


def never_trained(recipe: Recipe, tiles: TileSet) -> str:
    """A line on organs of which no tile is trained on; "" where there are none."""
    organs = organs_of(recipe.method)
    there = set(tiles.index["organ"].iloc[tiles.positions("train")]) if organs else set()
    missing = [name for name in organs if name not in there]
    return f"method.organs: no training tile is of {', '.join(missing)}: images of it are guesses" if missing else ""


def _named(organs: list[str]) -> str:
    return ", ".join(organ or "no organ" for organ in organs)
