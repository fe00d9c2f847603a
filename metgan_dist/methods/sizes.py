"""Which tiles a method can be trained on: of how many dimensions, with which edges; told before any are cut."""

from __future__ import annotations

from collections.abc import Sequence

from metgan_dist.errors import UserError
from metgan_dist.methods.method import Method
from metgan_dist.recipe import Recipe


def check_dimensions(method: type[Method], recipe: Recipe, others: Sequence[str]) -> None:
    """UserError where the recipe's tiles are of other dimensions than the method takes; `others` name some that do."""
    given = recipe.tiles.dimensions
    if given not in method.dimensions:
        raise UserError(
            f"method.name: {recipe.method.name} takes {' or '.join(f'{n}D' for n in method.dimensions)} tiles, and "
            f"tiles.kind {recipe.tiles.kind} gives {given}D ones; "
            + ("use projection or slice" if given == 3 else "use crop")
            + (f", or a method that takes them: {', '.join(others)}" if others else "")
        )


def check_edges_fit(method: type[Method], recipe: Recipe, edges: Sequence[int]) -> None:
    """UserError, naming `tiles.size` (or `tiles.resize`, where that sets the edges), for tiles that do not fit.

    When an edge is no multiple of the method's divisor or too short, or when the coarsest level would hold a single
    value per channel, which BatchNorm cannot normalise.
    """
    field = "tiles.size" if recipe.tiles.resize is None else "tiles.resize"
    divisor = method.divisor(recipe)
    least = -(-method.least_edge(recipe) // divisor) * divisor
    multiple, long = [f"a multiple of {divisor}"] * (divisor > 1), [f"at least {least}"] * (least > divisor)
    needs = ", ".join(multiple + long)
    whom = _shown(recipe)
    if recipe.tiles.resize is not None and any(pixels % divisor for pixels in edges if pixels != max(edges)):
        raise UserError(
            f"tiles.size: {_by(recipe.tiles.size)} resized to {recipe.tiles.resize} is {_by(edges)} pixels, and {whom} "
            f"needs {needs}; change its proportions"
        )
    for pixels in edges:
        if pixels < least or pixels % divisor:
            below = max(pixels // divisor * divisor, least)
            fits = f"{below} or {below + divisor if divisor > 1 else 'more'}"
            raise UserError(
                f"{field}: tiles of {pixels} pixels do not fit {whom}, which needs {needs}; use {fits}"
                + (", or set tiles.resize" if field == "tiles.size" else "")
            )
    if method.fewest_values(recipe, edges) == 1 and recipe.training.batch_size * recipe.scaling.processes == 1:
        raise UserError(
            f"{field}: a batch of one tile of {_by(edges)} pixels leaves BatchNorm a single value at the coarsest "
            f"level of {whom}; use {2 * max(edges)} pixels or set {_batch_size(recipe)} to 2"
        )


def _shown(recipe: Recipe) -> str:
    method = recipe.method
    return f"the segmentor ({method.segmentor_network})" if method.name == "segmentor" else method.name


def _batch_size(recipe: Recipe) -> str:
    return "method.segmentor_batch_size" if recipe.method.name == "segmentor" else "training.batch_size"


def _by(edges: Sequence[int]) -> str:
    return " x ".join(map(str, edges))
