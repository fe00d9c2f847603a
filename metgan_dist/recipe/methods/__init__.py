"""The section of each method: `recipe.method` is of the type that `method.name` says.

A new method's section is a new file here and its class in the list of SECTIONS. What a section lacks its method does
not have: such a field is a mistake, told with the methods that have it. Whole recipes that earlier versions stored,
when one section had the fields of all methods, are the exception (`stored_recipe`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from metgan_dist.recipe.method import MethodRecipe
from metgan_dist.recipe.methods.cycle_shape import CycleShapeRecipe
from metgan_dist.recipe.methods.cyclegan import CycleGANRecipe, CycleGANSegRecipe
from metgan_dist.recipe.methods.lesion_wgan import LesionWGANRecipe
from metgan_dist.recipe.methods.metgan import (
    MetGANMinusRecipe,
    MetGANRecipe,
    MetGenCondRecipe,
    MetGenCondSegRecipe,
    MetGenCycleRecipe,
)
from metgan_dist.recipe.methods.pix2pix import Pix2PixRecipe, Pix2PixSegRecipe, Pix2PixStrokeRecipe
from metgan_dist.recipe.methods.redgan import RedGANRecipe
from metgan_dist.recipe.methods.sean import SeanRecipe, SeanVaeRecipe
from metgan_dist.recipe.methods.segmentor import SegmentorRecipe
from metgan_dist.recipe.methods.sifa import SIFARecipe
from metgan_dist.recipe.methods.singan import SinGANRecipe
from metgan_dist.recipe.methods.spade import SpadeRecipe, SpadeStrokeRecipe, SpadeVaeRecipe
from metgan_dist.recipe.section import TOLD

_ALL: tuple[type[MethodRecipe], ...] = (
    *(MetGANRecipe, MetGANMinusRecipe, MetGenCycleRecipe, MetGenCondRecipe, MetGenCondSegRecipe),
    *(Pix2PixRecipe, Pix2PixSegRecipe, CycleGANRecipe, CycleGANSegRecipe),
    *(SpadeRecipe, SpadeVaeRecipe, SeanRecipe, SeanVaeRecipe, SIFARecipe, RedGANRecipe, CycleShapeRecipe),
    *(Pix2PixStrokeRecipe, SpadeStrokeRecipe),
    LesionWGANRecipe,
    SinGANRecipe,
    SegmentorRecipe,
)
SECTIONS: Mapping[str, type[MethodRecipe]] = MappingProxyType(
    {section.model_fields["name"].default: section for section in _ALL}
)
DEFAULT_METHOD: str = MetGANRecipe.model_fields["name"].default
SHARED = frozenset(MethodRecipe.model_fields)


def section_of(name: Any) -> type[MethodRecipe]:
    """The section of a method; where there is no such method, what all sections share."""
    return SECTIONS.get(name, MethodRecipe) if isinstance(name, str) else MethodRecipe


def method_names() -> list[str]:
    """The methods that a recipe can name, without the segmentor, which is trained beside them."""
    return [name for name, section in SECTIONS.items() if section is not SegmentorRecipe]


def owners(field: str) -> list[str]:
    """The methods that have a field; none where there is no such field."""
    return [name for name in method_names() if field in SECTIONS[name].model_fields]


def no_such_method(name: str, known: Sequence[str]) -> str:
    """A line for the user, after the name of the field."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"no method {name!r}; did you mean {near[0]}? known: {', '.join(known)}"


def foreign_fields(name: Any, given: Iterable[str]) -> list[str]:
    """Those of the fields that are other methods' and not those of the method `name`; unknown ones are no one's."""
    if not isinstance(name, str) or name not in SECTIONS:
        return []
    return [field for field in given if field not in SECTIONS[name].model_fields and owners(field)]


def not_its_field(name: str, field: str) -> str:
    """A line for the user, after the name of the field: the method lacks it, who has it, and its own nearest one."""
    others = owners(field)
    listed = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
    have = "has" if len(others) == 1 else "have"
    fields = sorted(SECTIONS[name].model_fields.keys() - SHARED) or sorted(SHARED - {"name"})
    (near,) = difflib.get_close_matches(field, fields, n=1, cutoff=0.0)
    return f"{name} has no such field ({listed} {have} it); its nearest is method.{near}"


def _own_section(given: Any) -> Any:
    """A tree as the section of the method that it names; what is wrong with it as errors of that section's fields."""
    if not isinstance(given, dict):
        return given
    name = given.get("name", DEFAULT_METHOD)
    if not isinstance(name, str):
        return MethodRecipe.model_validate(given)
    if name not in SECTIONS:
        raise _mistakes({"name": no_such_method(name, list(SECTIONS))}, given)
    if foreign := foreign_fields(name, given):
        raise _mistakes({field: not_its_field(name, field) for field in foreign}, given)
    return SECTIONS[name].model_validate({**given, "name": name})


def _mistakes(lines: Mapping[str, str], given: Mapping[str, Any]) -> ValidationError:
    """One error for each field, with what is to be said of it."""
    errors: list[InitErrorDetails] = [
        {"type": PydanticCustomError(TOLD, "{line}", {"line": line}), "loc": (field,), "input": given.get(field)}
        for field, line in lines.items()
    ]
    return ValidationError.from_exception_data("method", errors)


AnyMethod = SerializeAsAny[Annotated[MethodRecipe, BeforeValidator(_own_section)]]
"""The type of `recipe.method`: the section that its `name` says."""
