"""Steps of a study before its rows: runs of existing jobs, each of which takes what others have made.

    {name: drawn, job: synthesize, preset: masks, takes: {synthesis.model: masks}}
    {name: made_crops, job: make_tiles, preset: crops, takes: {data.path: made.dataset}}

What a field takes is named by a step or row: alone it is the folder of its run, with a dot an artefact of its result.
`data` is the data set that the study is of.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from metgan_dist.recipe import Section

DATA = "data"  # what a field takes that takes the study's own data set


def _fit_for_a_run(name: str) -> str:
    if name == DATA:
        raise ValueError(f"{DATA!r} is the study's data set; use another name")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", name):
        raise ValueError("use letters, digits and '_' only")
    return name


def _fields(takes: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
    for field in takes:
        if not re.fullmatch(r"[a-z]+\.[a-z_]+", field):
            raise ValueError(f"{field!r} is no field of a recipe; write section.field")
    return takes


RunName = Annotated[str, AfterValidator(_fit_for_a_run)]
Takes = Annotated[dict[str, str | list[str]], AfterValidator(_fields)]
"""Field of the recipe -> what it takes of which step or row, or a list of such."""


class Step(Section):
    """A run of a job that rows, or other steps, take something from."""

    name: RunName = Field(description="short name; the step's run is called <study run>-<name>")
    label: str = Field(description="what its lines and the report call it")
    job: Literal["make_tiles", "train_metgan", "train_segmentor", "synthesize", "insert_tumours", "segment_volumes"] = (
        Field(description="what it is a run of")
    )
    preset: str = Field(description="part of the study's presets whose recipe it has")
    recipe: dict[str, Any] = Field({}, description="fields of the recipe that it sets, by section")
    takes: Takes = Field(
        {}, description="fields of the recipe that are made by other steps: field -> STEP or STEP.ARTEFACT"
    )
    split_of: str | None = Field(
        None,
        description="step whose tiles say which volumes are trained on and which are held out, of the same data set",
    )

    @property
    def data_from(self) -> str | None:
        """The step that made its tiles or volumes; None where they are the study's own data set."""
        named = taken_from({"data.path": self.takes["data.path"]}) if "data.path" in self.takes else []
        return named[0] if named else None

    @property
    def sources(self) -> list[str]:
        """The steps that have to be done before it."""
        return [*taken_from(self.takes), *([self.split_of] if self.split_of else [])]


def taken_from(takes: Mapping[str, str | list[str]]) -> list[str]:
    """The steps and rows that fields take something from."""
    listed = [[one] if isinstance(one, str) else one for one in takes.values()]
    names = (reference.partition(".")[0] for references in listed for reference in references)
    return [name for name in dict.fromkeys(names) if name != DATA]


def closure(steps: Iterable[Step], wanted: Collection[str]) -> list[Step]:
    """The steps of these names and all that they need, in the order of `steps`, in which sources come first."""
    names, kept = set(wanted), []
    for step in reversed(list(steps)):
        if step.name in names:
            names |= set(step.sources)
            kept.append(step)
    return kept[::-1]


def tree_of(fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Values by section and field of values by `section.field`."""
    tree: dict[str, dict[str, Any]] = {}
    for name, value in fields.items():
        section, _, field = name.partition(".")
        tree.setdefault(section, {})[field] = value
    return tree
