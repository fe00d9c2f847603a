"""What the rows of a study share, made once: tiles, the frozen segmentor, the judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from metgan_dist.errors import UserError
from metgan_dist.evaluation.runs import check_enough, digest_of_test
from metgan_dist.main_job import prepare_tiles, source_judge, train_segmentor
from metgan_dist.methods import needs_segmentor
from metgan_dist.recipe import MethodRecipe, Recipe
from metgan_dist.runs.job import Result
from metgan_dist.runs.open_run import OpenRun, resolved
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.trained import check_segmentor
from metgan_dist.training.organs import with_organs

_SEGMENTOR = {name for name in MethodRecipe.model_fields if name.startswith("segmentor_")}


@dataclass(frozen=True)
class StudyInputs:
    """Recipes of the rows by name, ready for train_metgan, and the tiles and judge that all are scored with.

    Of two domains the recipes name the judge of the source, too.
    """

    recipes: dict[str, Recipe]
    tiles: TileSet
    judge: str


def prepare(opened: OpenRun, recipes: Mapping[str, Recipe]) -> StudyInputs:
    """Make what the rows share and put it into their recipes.

    Rows with the same data and tiles share a tile set and a segmentor trained on it, labels shuffled or not; a row
    whose segmentor is another network trains its own. The judge is trained on the tiles of the study's own recipe.

    Raises UserError when rows have different test tiles, or too few.
    """
    recipes = {name: resolved(recipe) for name, recipe in recipes.items()}
    given = opened.recipe.method.judge
    if given:  # before the hours that the rest may take
        given = check_segmentor("method.judge", given, opened.recipe)
    base = prepare_tiles(opened)
    check_enough(base, opened.recipe.scores)
    _check_organs({name: recipe for name, recipe in recipes.items() if _cut(recipe) == _cut(opened.recipe)}, base)
    judge = given or train_segmentor(opened, base, "judge", "judge").best
    source = source_judge(opened, base)
    opened.result.artefacts |= {"judge": judge, **({"judge_source": source} if source else {})}
    ready: dict[str, Recipe] = {}
    for group in _groups(recipes):
        ready |= _prepare_group(opened, base, {"judge": judge, "judge_source": source}, group)
    return StudyInputs({name: ready[name] for name in recipes}, base, judge)


def _groups(recipes: Mapping[str, Recipe]) -> list[dict[str, Recipe]]:
    """The rows by what is cut for them: the same data and tiles."""
    groups: list[dict[str, Recipe]] = []
    for name, recipe in recipes.items():
        group = next((group for group in groups if _cut(next(iter(group.values()))) == _cut(recipe)), None)
        if group is None:
            groups.append({name: recipe})
        else:
            group[name] = recipe
    return groups


def _prepare_group(
    opened: OpenRun, base: TileSet, judges: Mapping[str, str | None], recipes: Mapping[str, Recipe]
) -> dict[str, Recipe]:
    """Tiles and segmentor of rows with the same data; those of the study's own data have no tail to their names."""
    name, first = next(iter(recipes.items()))
    own = _cut(first) == _cut(opened.recipe)
    part, tiles, tail = opened, base, ""
    if not own:
        cut = first.model_copy(update={"method": opened.recipe.method})
        part, tail = replace(opened, recipe=cut, result=Result()), f"-{name}"
        tiles = prepare_tiles(part)
        _check_organs(recipes, tiles)
    if digest_of_test(tiles) != digest_of_test(base):
        raise UserError(f"--study: row {name} has other test tiles than the study's recipe; all rows must share them")
    sharing = [row for row, recipe in recipes.items() if _shares_segmentor(recipe, opened.recipe)]
    segmentor = train_segmentor(part, tiles, f"segmentor{tail}", "segmentor").best if sharing else None
    if not own:
        result = opened.result
        result.artefacts |= {**part.result.artefacts, f"tiles{tail}": tiles.uri, "tiles": base.uri}
        result.scores |= part.result.scores
        result.timings |= {
            f"{phase}{tail}" if phase == "tiles" else phase: t for phase, t in part.result.timings.items()
        }
    data = {"path": tiles.uri, "volumes": []}
    return {
        row: recipe.model_copy(
            update={
                "data": recipe.data.model_copy(update=data),
                "method": recipe.method.model_copy(
                    update={**judges, **({"segmentor": segmentor} if row in sharing else {})}
                ),
            }
        )
        for row, recipe in recipes.items()
    }


def _check_organs(recipes: Mapping[str, Recipe], tiles: TileSet) -> None:
    """What the training of a row would refuse, before anything else is trained."""
    for name, recipe in recipes.items():
        try:
            with_organs(recipe, tiles)
        except UserError as error:
            raise UserError(f"--study: row {name}: {error}") from error


def _cut(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(include={"data", "tiles"})


def _shares_segmentor(recipe: Recipe, base: Recipe) -> bool:
    """Whether a row needs a segmentor, was given none, and would train the same as the study's recipe."""
    if recipe.method.segmentor is not None or not needs_segmentor(recipe):
        return False
    return recipe.method.model_dump(include=_SEGMENTOR) == base.method.model_dump(include=_SEGMENTOR)
