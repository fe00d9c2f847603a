"""The flags of the section `method`: those of all methods are taken, and shown under the methods that have them."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any

from pydantic import create_model

from metgan_dist.recipe import MethodRecipe
from metgan_dist.recipe.methods import SECTIONS, SHARED, method_names, owners
from metgan_dist.runs.help_page import is_asked

_PREFIX = "method."


def all_methods_fields() -> type[MethodRecipe]:
    """A section with the fields of all methods, of which flags are made; the values are another section's to check."""
    fields: dict[str, Any] = {}
    for section in SECTIONS.values():
        for name, part in section.model_fields.items():
            fields.setdefault(name, (part.annotation, part))
    return create_model("AllMethods", __base__=MethodRecipe, **fields | {"name": (str, method_names()[0])})


def group_method_flags(parser: argparse.ArgumentParser, texts: Sequence[str]) -> None:
    """Sort the method's flags in the parser's help: the shared ones, then those of the methods that have them.

    Where the command line `texts` names a method, only its own are shown. Defaults are told by method.
    """
    if not is_asked(texts):
        return
    named = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    named.add_argument(f"--{_PREFIX}name")
    chosen = vars(named.parse_known_args(texts)[0])[f"{_PREFIX}name"]
    names = [chosen] if chosen in SECTIONS else method_names()
    place, shared = next(
        (place, group) for place, group in enumerate(parser._action_groups) if group.title == "method options"
    )
    groups: dict[tuple[str, ...], list[argparse.Action]] = {}
    for action in list(shared._group_actions):
        field = action.dest.removeprefix(_PREFIX)
        if field == "name":
            action.help = f"{', '.join(method_names())} (default: {method_names()[0]})"
        elif field in SHARED:
            action.help = _help(field, names)
        elif field != action.dest:
            shared._group_actions.remove(action)
            having = tuple(name for name in owners(field) if name in names)
            action.help = _help(field, having) if having else argparse.SUPPRESS
            groups.setdefault(having, []).append(action)
    groups.pop((), None)
    for having, actions in groups.items():
        group = parser.add_argument_group("method options of", "\n".join(textwrap.wrap(", ".join(having), 100)))
        group._group_actions.extend(actions)
    added = parser._action_groups[-len(groups) :] if groups else []
    parser._action_groups[-len(groups) :] = []
    parser._action_groups[place + 1 : place + 1] = added


def _help(field: str, names: Sequence[str]) -> str:
    """What a field is, and its default, which may be another for some of the methods `names`."""
    parts = {name: SECTIONS[name].model_fields[field] for name in names}
    by_default: dict[str, list[str]] = {}
    for name, part in parts.items():
        by_default.setdefault("none" if part.default in (None, ()) else str(part.default), []).append(name)
    (first, _), *others = by_default.items()
    defaults = "; ".join([first, *(f"{', '.join(having)}: {value}" for value, having in others)])
    text = f"{next(iter(parts.values())).description} (default: {defaults})"
    return text.replace("%", "%%")
