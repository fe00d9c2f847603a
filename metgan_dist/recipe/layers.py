"""Recipes laid over each other: preset or file, a study's row, the command line; what each sets for a method."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from typing import Any

from metgan_dist.errors import UserError
from metgan_dist.recipe.method import MethodRecipe
from metgan_dist.recipe.methods import DEFAULT_METHOD, SHARED, foreign_fields, not_its_field, owners, section_of

Tree = dict[str, Any]


def layered(*layers: Tree, compared: bool = False) -> Tree:
    """One tree of several, the later over the earlier, section by section.

    What a layer sets of a method's own fields holds for the method that this layer and those below it name (MetGAN
    where none does) and, as far as they have such a field, for its variants. Where a later layer names another method
    it is left out, so that this one gets its own paper's values; and so are stages, which are the method's. With
    `compared`, as the rows of a study are, the same goes for the batch size and the learning rate.

    Raises UserError for a field in a layer that its method does not have and another has.
    """
    names = _names(layers)
    for layer, name in zip(layers, names, strict=True):
        for field in foreign_fields(name, _section(layer, "method")):
            raise UserError(f"method.{field}: {not_its_field(name, field)}")
    final = names[-1]
    of_another = _base_method(names[0]) != _base_method(final)
    tree: Tree = {"training": dict(section_of(final).paper_training)} if compared and of_another else {}
    for layer, name in zip(layers, names, strict=True):
        tree = _merged(tree, _for_method(layer, name, final, compared))
    return tree


def method_named(*layers: Tree) -> Any:
    """The method that comes out of layers."""
    return _names(layers)[-1]


def without(layer: Tree, section: str, fields: Collection[str]) -> Tree:
    """A layer without these fields of a section."""
    if not isinstance(layer.get(section), dict):
        return layer
    return {**layer, section: {name: value for name, value in layer[section].items() if name not in fields}}


def without_foreign(layer: Tree, name: Any) -> Tree:
    """A layer without the fields of `method` that the method `name` does not have and others do."""
    return without(layer, "method", foreign_fields(name, _section(layer, "method")))


def _names(layers: Sequence[Tree]) -> list[Any]:
    """The method that each layer is for: what it or a layer below it names."""
    named = (_section(layer, "method").get("name") for layer in layers)
    _, *names = accumulate(named, lambda below, name: below if name is None else name, initial=DEFAULT_METHOD)
    return names


def _base_method(name: Any) -> Any:
    """The method that `name` is a variant of, with a part added or left out; itself where it is none."""
    return section_of(name).variant_of or name


def _for_method(layer: Tree, own: Any, final: Any, compared: bool) -> Tree:
    """A layer that was written for the method `own`, as far as it holds for the method `final`."""
    if own == final:
        return layer
    section = section_of(final)
    absent = {field for field in _section(layer, "method") if field not in section.model_fields and owners(field)}
    if _base_method(own) == _base_method(final):
        return without(layer, "method", absent)
    training = {"stages", "stages_from"} | ({"batch_size", "learning_rate"} if compared else set())
    return without(without(layer, "method", absent | _settings(section)), "training", training)


def _settings(section: type[MethodRecipe]) -> set[str]:
    """Fields of a method that are not taken over from a recipe for another one: its own, and those whose default is."""
    usual = {name: part.default for name, part in MethodRecipe.model_fields.items()}
    mine = {name for name, part in section.model_fields.items() if name not in SHARED or part.default != usual[name]}
    return mine - section.for_any - {"name"}


def _section(layer: Tree, name: str) -> Mapping[str, Any]:
    """A section of a layer that nothing has validated yet."""
    section = layer.get(name)
    return section if isinstance(section, dict) else {}


def _merged(tree: Tree, over: Tree) -> Tree:
    """`tree` with the values of `over` in place of its own, section by section."""
    both = dict(tree)
    for name, value in over.items():
        mine = both.get(name)
        both[name] = _merged(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return both
