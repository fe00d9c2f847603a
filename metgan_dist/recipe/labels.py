"""How the values of label files become classes, by name: `{500: left ventricle, 205: myocardium}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

BACKGROUND = "background"


def class_names(labels: Mapping[int, str]) -> tuple[str, ...]:
    """The classes that a map of label values names, by number: background is 0, the others in order of first mention.

    >>> class_names({500: "left ventricle", 205: "myocardium", 421: "left atrium", 420: "left atrium"})
    ('background', 'left ventricle', 'myocardium', 'left atrium')
    """
    names = (_name(name) for name in labels.values())
    return BACKGROUND, *dict.fromkeys(name for name in names if name != BACKGROUND)


def class_numbers(labels: Mapping[int, str]) -> dict[int, int]:
    """The class of each value of a label file that a map names; 0 is always there, and background."""
    number = {name: place for place, name in enumerate(class_names(labels))}
    return {0: 0} | {value: number[_name(name)] for value, name in labels.items()}


def counted(section: Any) -> Any:
    """A section before it is validated, with as many `classes` as its `labels` name where it states no number."""
    labels = section.get("labels") if isinstance(section, dict) else None
    if not labels or not isinstance(labels, dict) or section.get("classes") is not None:
        return section
    return section | {"classes": len(class_names(labels))}


def check_counted(labels: Mapping[int, str] | None, classes: int | None) -> None:
    """ValueError where `classes` and `labels` of one section differ."""
    if labels is not None and classes != (named := len(class_names(labels))):
        raise ValueError(f"classes: {classes}, but `labels` names {named}, background included; leave `classes` out")


def _named(labels: dict[int, str]) -> dict[int, str]:
    """The map with tidy names; ValueError for a value without a name, another name for 0, and for no class at all."""
    tidy = {value: _name(name) for value, name in labels.items()}
    nameless = next((value for value, name in tidy.items() if not name), None)
    if nameless is not None:
        raise ValueError(f"value {nameless} has no name; name it, or leave it out")
    if tidy.get(0, BACKGROUND) != BACKGROUND:
        raise ValueError(f"value 0 is {BACKGROUND}, not {tidy[0]!r}; leave it out")
    if len(class_names(tidy)) < 2:
        raise ValueError(f"names no class beside {BACKGROUND}")
    return tidy


def _name(name: Any) -> str:
    tidy = " ".join(str(name).split())
    return BACKGROUND if tidy.lower() == BACKGROUND else tidy


LabelNames = Annotated[dict[int, str], AfterValidator(_named)]
"""Value in a label file -> name of its class; several values may have one name. See `class_names`."""
