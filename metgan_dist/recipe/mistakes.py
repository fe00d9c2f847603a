"""What pydantic finds wrong with a tree that a user wrote, as a line for the user."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from metgan_dist.recipe.section import TOLD

LONGEST = 60


def first_mistake(error: ValidationError, unknown: str = "no such field in a recipe; --help all lists them") -> str:
    """The first thing that is wrong, in one line: field, its value, what is allowed; and how many more there are.

    `unknown` is what the line says of a field that does not exist. What is wrong with a tree as a whole has no field.
    """
    mistakes = error.errors(include_url=False)
    first = mistakes[0]
    field = ".".join(str(part) for part in first["loc"])
    message = unknown
    if first["type"] == TOLD:
        message = first["msg"]
    elif first["type"] != "extra_forbidden":
        message = uncapitalised(" ".join(first["msg"].removeprefix("Value error, ").split()))
        # Of a section, or what lacks a field, all values would be shown; the message names those that matter.
        if field and not isinstance(first["input"], dict):
            message = f"{_shown(first['input'])}: {message}"
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    return (f"{field}: " if field else "") + message + more


def uncapitalised(text: str) -> str:
    """The text as it stands after a colon."""
    return text[:1].lower() + text[1:]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
