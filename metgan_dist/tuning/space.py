"""The space of a search: fields of the recipe by their dotted names, and the values that each may take."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from ray import tune

from metgan_dist.errors import UserError
from metgan_dist.methods import method_class
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.methods import foreign_fields, not_its_field
from metgan_dist.recipe.mistakes import first_mistake
from metgan_dist.recipe.tuning import Range

# A weight's default range reaches this factor to either side of its paper's value.
DECADE = 10.0
# Fields that set a trial's length or looks: all trials must have the same for their scores to compare.
_BUDGET = ("epochs", "max_steps", "stages", "stages_from", "shares", "batch_size", "accumulate")
_LOOKS = ("validate_every", "validate_tiles", "checkpoint_every", "log_every", "max_failures")

Space = Mapping[str, Range | list[Any]]


def search_space(recipe: Recipe) -> Space:
    """The fields to vary: those of `tuning.space`, or the loss weights that the recipe's method has.

    Raises UserError in one line for a field that does not exist, is shared by all trials, or does not take the values;
    and where the recipe's own value, with which the first trial starts, is not among them.
    """
    space = recipe.tuning.space or _default_space(recipe)
    if not space:
        raise UserError(f"tuning.space: {recipe.method.name} has no loss weights to vary; name fields to vary")
    own = point_of(recipe, space)
    for field, values in space.items():
        _check_values(recipe, field, values, own[field])
    return space


def _default_space(recipe: Recipe) -> Space:
    paper = {name: part.default for name, part in type(recipe.method).model_fields.items()}
    weights = method_class(recipe.method.name).loss_weights(recipe)
    return {
        f"method.{name}": Range(low=paper[name] / DECADE, high=paper[name] * DECADE) for name in weights if paper[name]
    }


def _check_values(recipe: Recipe, field: str, values: Range | list[Any], own: Any) -> None:
    if isinstance(values, Range):
        if not isinstance(own, int | float) or isinstance(own, bool):
            raise UserError(f"tuning.space: {field}: {own!r} is no number; list its values instead of a range")
        if not values.low <= own <= values.high:
            raise UserError(
                f"tuning.space: {field}: the recipe's own value {own:g}, which the first trial has, lies outside "
                f"{values.low:g} to {values.high:g}; widen the range or set --{field}"
            )
        ends: list[Any] = [values.low, values.high]
    else:
        if len(values) < 2 or own not in values:
            raise UserError(
                f"tuning.space: {field}: needs at least two values, the recipe's own {own!r} among them, not {values}"
            )
        ends = values
    for value in ends:
        applied(recipe, {field: value})


def _all_fields(section: BaseModel, prefix: str = "") -> Iterator[str]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _all_fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _check_field(recipe: Recipe, field: str) -> None:
    fields = list(_all_fields(recipe))
    section, _, name = field.partition(".")
    if section == "method" and foreign_fields(recipe.method.name, [name]):
        raise UserError(f"tuning.space: {field}: {not_its_field(recipe.method.name, name)}")
    if field not in fields:
        near = difflib.get_close_matches(field, fields, n=1, cutoff=0.0)[0]
        raise UserError(f"tuning.space: {field}: no such field in a recipe; did you mean {near}?")
    if field == "method.name":
        raise UserError("tuning.space: method.name: methods have weights of their own; run_study.py compares them")
    shared = section in ("data", "tiles") or name.startswith(("segmentor", "judge"))
    if section in ("method", "training") and not shared and name not in (*_BUDGET, *_LOOKS):
        return
    why = "made once for all trials" if shared else "the same for all trials, or does not change a training"
    raise UserError(f"tuning.space: {field}: is {why}; vary other fields of method and training, or run two sweeps")


def point_of(recipe: Recipe, space: Space) -> dict[str, Any]:
    """The recipe's own values of the fields of a space; UserError for a field that cannot be varied."""
    point = {}
    for field in space:
        _check_field(recipe, field)
        section, _, name = field.partition(".")
        point[field] = getattr(getattr(recipe, section), name)
    return point


def applied(recipe: Recipe, point: Mapping[str, Any]) -> Recipe:
    """The recipe with the values of a point, whole numbers where the field takes these; UserError naming a bad one."""
    tree = recipe.model_dump()
    for field, value in point.items():
        section, _, name = field.partition(".")
        own = tree[section][name]
        whole = isinstance(own, int) and not isinstance(own, bool) and isinstance(value, float)
        tree[section][name] = round(value) if whole else value
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"tuning.space: {first_mistake(error)}") from error


def digest(point: Mapping[str, Any], *more: str) -> str:
    """Six characters that tell a point (and what else is given) from others, the same in every process."""
    text = json.dumps([dict(sorted(point.items())), *more])
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def tune_domains(space: Space) -> dict[str, Any]:
    """The space as Ray Tune writes it."""
    return {field: _domain(values) for field, values in space.items()}


def _domain(values: Range | list[Any]) -> Any:
    if not isinstance(values, Range):
        return tune.choice(values)
    return tune.loguniform(values.low, values.high) if values.log else tune.uniform(values.low, values.high)


def clamped(space: Space, point: Mapping[str, Any]) -> dict[str, Any]:
    """A point brought back into the ranges of the space."""
    inside = dict(point)
    for field, values in space.items():
        if isinstance(values, Range) and field in inside:
            inside[field] = min(max(inside[field], values.low), values.high)
    return inside


def described(space: Space) -> str:
    """The space in a line for a person."""
    return "; ".join(f"{field} {_described(values)}" for field, values in space.items())


def _described(values: Range | list[Any]) -> str:
    if not isinstance(values, Range):
        return f"of {', '.join(shown(value) for value in values)}"
    return f"from {shown(values.low)} to {shown(values.high)}{'' if values.log else ' (not log)'}"


def shown(value: Any) -> str:
    """A value for a person: numbers with three digits, or all before the point where these are a few more."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"
