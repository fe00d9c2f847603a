"""A study as a typed tree: which rows its table has, what each trains, and what the paper printed for it.

Studies are data, as recipes are: the YAML files beside this module, or a file of the user's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe, Score, Section
from metgan_dist.recipe.layers import method_named, without_foreign
from metgan_dist.recipe.methods import foreign_fields, not_its_field
from metgan_dist.recipe.mistakes import first_mistake
from metgan_dist.recipe.yaml_file import read_yaml
from metgan_dist.runs.command_line import Command

STUDIES = Path(__file__).parent

LesionScore = Literal["dice", "precision", "recall", "jaccard", "voxel_dice"]
_SCORES = {"train_metgan": get_args(Score), "segment_folds": get_args(LesionScore)}


class Row(Section):
    """One line of the table, a run of the study's job; several lines may share a method under other settings."""

    name: str = Field(description="short name; the row's run is called <study run>-<name>")
    label: str = Field(description="what the table calls it")
    recipe: dict[str, Any] = Field(
        description="fields of the recipe that this row sets, by section; the command line wins over them"
    )
    ticks: dict[str, bool | str] = Field({}, description="the table's first columns")
    paper: dict[Score | LesionScore, float] = Field(
        {}, description="the scores that the paper printed for this row, as printed"
    )
    against: str | None = Field(None, description="name of a row; the table of differences shows this row minus that")

    @field_validator("name")
    @classmethod
    def _fit_for_a_run(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", name):
            raise ValueError("use letters, digits and '_' only")
        return name


class Study(Section):
    """A table of a paper, to be made again on one's own data."""

    title: str = Field(description="above the table")
    job: Literal["train_metgan", "segment_folds"] = Field("train_metgan", description="job that a row is a run of")
    reference: str = Field(description="name of the row that the others are tested against")
    scores: tuple[Score | LesionScore, ...] = Field(
        description="columns; scores.names on the command line wins where rows are trainings of methods"
    )
    paper_factor: dict[Score | LesionScore, float] = Field(
        {}, description="what the paper's numbers are to be multiplied by"
    )
    notes: list[str] = Field([], description="below the table")
    recipe: dict[str, Any] = Field(
        {}, description="fields of the recipe that all rows set whose methods have them, where they set no other"
    )
    rows: list[Row] = Field(description="lines of the table, in order", min_length=1)

    @model_validator(mode="after")
    def _rows_fit(self) -> Study:
        names, labels = [row.name for row in self.rows], [row.label for row in self.rows]
        for listed in (names, labels):
            for entry in listed:
                if listed.count(entry) > 1:
                    raise ValueError(f"two rows are called {entry!r}")
        for name in (self.reference, *(row.against for row in self.rows if row.against is not None)):
            if name not in names:
                raise ValueError(f"no row is called {name!r}; there are {', '.join(names)}")
        common = _of_method(self.recipe)
        named = [{**common, **_of_method(row.recipe)}.get("name") for row in self.rows]
        for field in common:
            # Where a row names no method, it is the preset's, which is not known yet.
            if all(name is not None and foreign_fields(name, [field]) for name in named):
                raise ValueError(f"recipe: no row has a method with method.{field}; leave it out")
        for score in self.scores:
            if score not in _SCORES[self.job]:
                raise ValueError(f"{score} is no score of {self.job}; there are {', '.join(_SCORES[self.job])}")
        return self

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def restricted(self, names: Sequence[str]) -> Study:
        """The study with these rows alone, in its own order; differences to a row that is left out are left out too.

        Raises UserError for a name that no row has.
        """
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                raise UserError(f"--rows: no row is called {name!r}; there are {', '.join(known)}")
        rows = [
            row if row.against in names else row.model_copy(update={"against": None})
            for row in self.rows
            if row.name in names
        ]
        reference = self.reference if self.reference in names else rows[0].name
        return self.model_copy(update={"rows": rows, "reference": reference})

    def paper(self, row: Row) -> dict[str, float]:
        """What the paper printed for a row, on the scale of our scores."""
        return {str(name): round(value * self.paper_factor.get(name, 1.0), 9) for name, value in row.paper.items()}

    def _fields(self, row: Row, command: Command) -> dict[str, Any]:
        """What a row sets, by section, the study's own fields that its method has below its own."""
        named = {"method": {**_of_method(self.recipe), **_of_method(row.recipe)}}
        common = without_foreign(self.recipe, method_named(command.preset, named))
        return {name: {**common.get(name, {}), **row.recipe.get(name, {})} for name in {**common, **row.recipe}}

    def recipes(self, command: Command) -> dict[str, Recipe]:
        """The recipe of every row by name: the preset, the row's fields, then the command line's.

        A preset's settings of a method are not those of a row with another one, which has its own paper's. A flag for a
        field that some methods have holds for their rows.

        Raises UserError naming the row for a field that does not exist or a method that is not known, and naming the
        flag for a field that no row's method has.
        """
        recipes = {}
        for row in self.rows:
            try:
                recipes[row.name] = command.varied(self._fields(row, command))
            except UserError as error:
                raise UserError(f"--study: row {row.name}: {error}") from error
        for field, names in _concerned(command, recipes).items():
            if not names:
                method = next(iter(recipes.values())).method.name
                raise UserError(f"method.{field}: no row of the study has it: {not_its_field(method, field)}")
        return recipes


def unconcerned(command: Command, recipes: Mapping[str, Recipe]) -> list[str]:
    """A line for each flag of a field that not all rows' methods have: which rows it does not concern."""
    concerned = _concerned(command, recipes)
    others = {field: [name for name in recipes if name not in names] for field, names in concerned.items()}
    return [
        f"method.{field}: not for {', '.join(names)}, whose methods have no such field"
        for field, names in others.items()
        if names
    ]


def _concerned(command: Command, recipes: Mapping[str, Recipe]) -> dict[str, list[str]]:
    """The rows whose methods have a field, by the fields of `method` that are flags."""
    return {
        field: [name for name, recipe in recipes.items() if not foreign_fields(recipe.method.name, [field])]
        for field in command.given.get("method", {})
    }


def _of_method(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a study or a row sets of the method, which nothing has validated yet."""
    fields = recipe.get("method")
    return fields if isinstance(fields, dict) else {}


def own_settings(recipes: Mapping[str, Recipe], base: Recipe) -> str:
    """What each row's recipe has otherwise than `base`, the study's own, as YAML: row, section, field."""
    common = base.model_dump(mode="json")
    rows: dict[str, dict[str, Any]] = {}
    for name, recipe in recipes.items():
        sections = recipe.model_dump(mode="json").items()
        own = {
            part: {k: v for k, v in fields.items() if k not in common[part] or v != common[part][k]}
            for part, fields in sections
        }
        rows[name] = {part: fields for part, fields in own.items() if fields}
    return yaml.safe_dump({"rows": rows}, sort_keys=False)


def study_names() -> list[str]:
    """Names of the studies that come with the package."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def asked_study(command: Command) -> tuple[str, Study]:
    """Name and study of the flag --study, restricted to the rows of the flag --rows where that is given.

    Raises UserError in one line when there is not exactly one, or a row is not known.
    """
    asked = command.own["study"]
    if len(asked) != 1:
        raise UserError(f"--study: {'none given' if not asked else 'more than one given'}; name one")
    study, rows = load_study(asked[0]), command.own.get("rows", [])
    return Path(asked[0]).stem, study.restricted(rows) if rows else study


def load_study(name_or_path: str) -> Study:
    """The study of that name, or of a YAML file; UserError in one line where there is none or it is not valid."""
    path = STUDIES / f"{name_or_path}.yaml"
    if not path.is_file():
        path = Path(name_or_path)
        if not path.is_file():
            raise UserError(f"--study {name_or_path}: no such study or file; studies: {', '.join(study_names())}")
    try:
        return Study.model_validate(read_yaml(str(path), path.read_bytes()))
    except ValidationError as error:
        raise UserError(f"{path}: {first_mistake(error, 'no such field in a study')}") from error
