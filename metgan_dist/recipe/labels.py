"""How the values of label files become classes, by name: `{500: left ventricle, 205: myocardium}`.

Of several label files that are laid over each other each has a map of its own, by the name of the label:
`{tissue: {2: white matter, 3: grey matter}, lesion: {1: lesion}}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, TypeAdapter

from metgan_dist.recipe.freesurfer import FREESURFER

BACKGROUND = "background"
LESION, TISSUE = "lesion", "tissue"  # the class that is looked for; the label that is a map of tissues
# Tissue into which lesions may be laid, where nobody names it; CSF and ventricles hold no tissue.
PARENCHYMA = ("white matter", "grey matter", "deep grey matter", "brain-stem", "cerebellum")

Values = Mapping[int, str]
Labels = Values | Mapping[str, Values]
"""Of one label file, or by the name of the label of several, the later laid over the earlier."""


def by_file(labels: Labels) -> dict[str, Values]:
    """The map of each label file by its name, in their order; that of a single one is under ""."""
    files = {str(name): part for name, part in labels.items() if isinstance(part, Mapping)}
    return files or {"": cast(Values, labels)}


def class_names(labels: Labels) -> tuple[str, ...]:
    """The classes that a map of label values names, by number: background is 0, the others in order of first mention.

    >>> class_names({500: "left ventricle", 205: "myocardium", 421: "left atrium", 420: "left atrium"})
    ('background', 'left ventricle', 'myocardium', 'left atrium')
    """
    names = (_name(name) for part in by_file(labels).values() for name in part.values())
    return BACKGROUND, *dict.fromkeys(name for name in names if name != BACKGROUND)


def class_numbers(labels: Values, among: Labels | None = None) -> dict[int, int]:
    """The class of each value of a label file that a map names; 0 is always there, and background.

    `among`: the maps of all label files, where it is one of several; they number the classes together.
    """
    number = {name: place for place, name in enumerate(class_names(labels if among is None else among))}
    return {0: 0} | {value: number[_name(name)] for value, name in labels.items()}


def label_names(label: str | Sequence[str] | None) -> tuple[str, ...]:
    """The labels that `data.label` names, the later laid over the earlier."""
    return ((label,) if label else ()) if isinstance(label, str | None) else tuple(label)


def chosen(labels: Labels, names: Sequence[str]) -> Labels:
    """Of maps by label those of `names` in their order (all without any): the map itself where that is one alone.

    A map of a single label file is itself. Raises ValueError for a name that is not among them.
    """
    files = by_file(labels)
    if "" in files:
        return labels
    lacking = next((name for name in names if name not in files), None)
    if lacking is not None:
        raise ValueError(f"label: {lacking!r} is none of the label files that `labels` names ({', '.join(files)})")
    own = {name: files[name] for name in names or files}
    return own if len(own) > 1 else next(iter(own.values()))


def parenchyma_of(labels: Labels, wanted: Sequence[str] | None) -> dict[int, str]:
    """The classes, by number, into which lesions may be laid: `wanted`, else those of `PARENCHYMA` that there are.

    Raises ValueError for one that is no class, and where there is none at all.
    """
    names = class_names(labels)
    unknown = next((name for name in wanted or () if name not in names), None)
    if unknown is not None:
        raise ValueError(f"{unknown!r} is no class of the data set ({', '.join(names[1:])})")
    own = {number: name for number, name in enumerate(names) if name in (wanted or PARENCHYMA)}
    if not own:
        raise ValueError(
            f"none of {', '.join(PARENCHYMA)} is a class of the data set ({', '.join(names[1:])}); name the tissue "
            "into which lesions may be laid"
        )
    return own


def counted(section: Any) -> Any:
    """A section before it is validated, with as many `classes` as its `labels` name where it states no number.

    Of several label files those count that `label` names, all of them where it names none.
    """
    labels = section.get("labels") if isinstance(section, dict) else None
    if not labels or not isinstance(labels, dict | str) or section.get("classes") is not None:
        return section
    return section | {"classes": len(class_names(chosen(_spelt_out(labels), label_names(section.get("label")))))}


def check_counted(labels: Labels | None, classes: int | None) -> None:
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


def _spelt_out(labels: Any) -> Any:
    """The map with FreeSurfer's numbers where it says `freesurfer` for those of a label file."""
    if isinstance(labels, dict):
        return {name: FREESURFER if part == "freesurfer" else part for name, part in labels.items()}
    return FREESURFER if labels == "freesurfer" else labels


def _either(labels: Any) -> Labels:
    """Of one label file or of several, which is told by whether a name has a map."""
    spelt = _spelt_out(labels)
    several = isinstance(spelt, dict) and any(isinstance(part, dict) for part in spelt.values())
    return _FILES.validate_python(spelt) if several else _FILE.validate_python(spelt)


LabelNames = Annotated[dict[int, str], AfterValidator(_named)]
"""Value in a label file -> name of its class; several values may have one name. See `class_names`."""

_FILE, _FILES = TypeAdapter(LabelNames), TypeAdapter(dict[Annotated[str, Field(min_length=1)], LabelNames])
# A union would tell of each mistake twice, and warn of either when it is stored.
AnyLabelNames = Annotated[
    dict[int, str] | dict[str, dict[int, str]], PlainValidator(_either), PlainSerializer(dict, return_type=dict)
]
"""The same, or one such map for each of several label files by its name; `freesurfer` is FreeSurfer's map."""
