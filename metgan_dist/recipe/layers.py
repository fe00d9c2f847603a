"""Recipes laid over each other: preset or file, a study's row, the command line; what each sets for a method."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from metgan_dist.recipe.method import METHOD_TRAINING, MethodRecipe, base_method, settings_of

Tree = dict[str, Any]
_DEFAULT = MethodRecipe.model_fields["name"].default


def layered(*layers: Tree, compared: bool = False) -> Tree:
    """One tree of several, the later over the earlier, section by section.

    METHOD_SETTINGS that a layer sets hold for the method that this layer and those below it name (MetGAN where none
    does) and for its variants. Where a later layer names another method they are left out, so that it gets its own
    paper's; and so are stages, which are the method's. With `compared`, as the rows of a study are, the same goes for
    the batch size and the learning rate.
    """
    named = (_section(layer, "method").get("name") for layer in layers)
    _, *names = accumulate(named, lambda below, name: below if name is None else name, initial=_DEFAULT)
    final = str(names[-1])
    others = [base_method(str(name)) != base_method(final) for name in names]
    tree: Tree = {"training": METHOD_TRAINING.get(final, {})} if compared and others[0] else {}
    for layer, of_another in zip(layers, others, strict=True):
        tree = _merged(tree, _for_any_method(layer, final, compared) if of_another else layer)
    return tree


def _for_any_method(layer: Tree, name: str, compared: bool) -> Tree:
    """A layer without what it sets for a method that is not `name`."""
    training = {"stages", "stages_from"} | ({"batch_size", "learning_rate"} if compared else set())
    own = {"method": settings_of(name), "training": training}
    kept = {section: {k: v for k, v in _section(layer, section).items() if k not in own[section]} for section in own}
    return layer | {section: fields for section, fields in kept.items() if isinstance(layer.get(section), dict)}


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
