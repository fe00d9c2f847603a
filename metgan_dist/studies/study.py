"""A study as a typed tree: which rows its table has, what each trains, and what the paper printed for it.

Studies are data, as recipes are: the YAML files beside this module, or a file of the user's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe, Section
from metgan_dist.recipe.layers import method_named, without_foreign
from metgan_dist.recipe.methods import foreign_fields, not_its_field
from metgan_dist.recipe.mistakes import first_mistake
from metgan_dist.recipe.yaml_file import read_yaml
from metgan_dist.runs.command_line import Command
from metgan_dist.studies.shown import (
    SCORES,
    AnyScore,
    CaseReport,
    EpochReport,
    Figure,
    Gap,
    Panel,
    TableLine,
    figure_of,
    line_of,
)
from metgan_dist.studies.steps import RunName, Step, Takes, closure, taken_from

STUDIES = Path(__file__).parent


class Row(Section):
    """One line of the table, a run of the study's job; several lines may share a method under other settings."""

    name: RunName = Field(description="short name; the row's run is called <study run>-<name>")
    label: str = Field(description="what the table calls it")
    recipe: dict[str, Any] = Field(
        description="fields of the recipe that this row sets, by section; the command line wins over them"
    )
    stages_from: dict[str, str] = Field(
        {}, description="stage of the method -> name of the row that it is taken from, which is trained first"
    )
    leave_out: list[str] = Field(
        [], description="stages of the method that this row does not go through, whatever the command line says of them"
    )
    takes: Takes = Field(
        {}, description="fields of the recipe that steps, or rows above it, make: field -> NAME or NAME.ARTEFACT"
    )
    epochs: float = Field(1.0, gt=0, description="of segmentation.epochs, how many this row trains")
    after: float | None = Field(
        None, ge=0, description="of segmentation.epochs, after how many its means begin; default: they end with it"
    )
    optional: bool = Field(False, description="carried out where --rows names it alone")
    ticks: dict[str, bool | str] = Field({}, description="the table's first columns")
    paper: dict[AnyScore, float] = Field({}, description="the scores that the paper printed for this row, as printed")
    against: str | None = Field(None, description="name of a row; the table of differences shows this row minus that")

    @property
    def sources(self) -> list[str]:
        """The steps and rows that it takes something from."""
        return list(dict.fromkeys([*self.stages_from.values(), *taken_from(self.takes)]))


class Study(Section):
    """A table of a paper, to be made again on one's own data."""

    title: str = Field(description="above the table")
    job: Literal["train_metgan", "segment_folds", "segment_volumes"] = Field(
        "train_metgan", description="job that a row is a run of"
    )
    scored: Literal["tiles", "volumes", "epochs"] = Field(
        "tiles",
        description="what is compared: test tiles, whole test volumes, which each training scores itself, or the Dice "
        "on these after each epoch",
    )
    presets: dict[str, dict[str, str]] = Field(
        {}, description="recipe of the command line (--recipe) -> part of the study -> preset or YAML file that it has"
    )
    steps: list[Step] = Field([], description="what is made before rows, each a run of its own, sources first")
    tiles: str | None = Field(None, description="step whose tiles, and preset, all rows have; of studies with steps")
    reference: str = Field(description="name of the row that the others are tested against, or the label of a line")
    scores: tuple[AnyScore, ...] = Field(
        description="columns; scores.names on the command line wins where rows are trainings of methods"
    )
    paper_factor: dict[AnyScore, float] = Field({}, description="what the paper's numbers are to be multiplied by")
    notes: list[str] = Field([], description="below the table")
    recipe: dict[str, Any] = Field(
        {}, description="fields of the recipe that all rows set whose methods have them, where they set no other"
    )
    rows: list[Row] = Field(description="lines of the table, in order", min_length=1)
    lines: list[TableLine] = Field([], description="the table's lines, where they are not the rows (volumes only)")
    figures: list[Figure] = Field([], description="pictures of scores against amounts of data (volumes only)")
    gaps: list[Gap] = Field([], description="how near methods come to what real data bring (volumes only)")
    cases: CaseReport | None = Field(None, description="table of how scores of patients lie (segment_volumes only)")
    epochs: EpochReport | None = Field(None, description="table and figures of studies that are scored on epochs")

    @model_validator(mode="after")
    def _rows_fit(self) -> Study:
        names, labels = [row.name for row in self.rows], [row.label for row in self.rows]
        for listed in (names, labels, [line.label for line in self.lines]):
            for entry in listed:
                if listed.count(entry) > 1:
                    raise ValueError(f"two rows are called {entry!r}")
        reference = [] if self.reference in {line.label for line in self.lines} else [self.reference]
        for name in (*reference, *self._named()):
            if name not in names:
                raise ValueError(f"no row is called {name!r}; there are {', '.join(names)}")
        common = _of_method(self.recipe)
        named = [{**common, **_of_method(row.recipe)}.get("name") for row in self.rows]
        for field in common:
            # Where a row names no method, it is the preset's, which is not known yet.
            if all(name is not None and foreign_fields(name, [field]) for name in named):
                raise ValueError(f"recipe: no row has a method with method.{field}; leave it out")
        for number, row in enumerate(self.rows):
            if later := [name for name in row.stages_from.values() if name not in names[:number]]:
                raise ValueError(f"row {row.name!r} takes a stage from {later[0]!r}, which is not above it")
            if later := [name for name in row.sources if name in names[number:]]:
                raise ValueError(f"row {row.name!r} takes from {later[0]!r}, which is not above it")
        known = SCORES.get((self.job, self.scored))
        if known is None:
            raise ValueError(f"scored: {self.job} has no scores of whole {self.scored}")
        for score in (*self.scores, *(score for line in self.lines for score in line.cells)):
            if score not in known:
                raise ValueError(f"{score} is no score of {self.job} on {self.scored}; there are {', '.join(known)}")
        if self.scored != "volumes" and (self.lines or self.figures or self.gaps):
            raise ValueError("lines, figures and gaps are of studies that are scored on volumes")
        return self

    @model_validator(mode="after")
    def _steps_fit(self) -> Study:
        steps, rows = [step.name for step in self.steps], [row.name for row in self.rows]
        for name in steps:
            if [*steps, *rows].count(name) > 1:
                raise ValueError(f"two steps or rows are called {name!r}")
        for number, step in enumerate(self.steps):
            if later := [name for name in step.sources if name not in steps[:number]]:
                raise ValueError(f"step {step.name!r} takes from {later[0]!r}, which is no step above it")
        for row in self.rows:
            if unknown := [name for name in row.sources if name not in (*steps, *rows)]:
                raise ValueError(f"row {row.name!r} takes from {unknown[0]!r}, which is no step or row")
        of_steps = self.job in ("segment_folds", "segment_volumes")
        if bool(self.steps) != (self.tiles in steps) or (self.steps and not of_steps):
            raise ValueError("tiles: names the step whose tiles rows of segment_folds have, and no other study has one")
        if self.job == "segment_volumes" and not self.steps:
            raise ValueError("job: segment_volumes scores what steps have trained, and the study has none")
        if self.cases is not None and self.job != "segment_volumes":
            raise ValueError("cases: a table of studies whose job is segment_volumes")
        if self.cases is not None and (unknown := [name for name in self.cases.paper if name not in rows]):
            raise ValueError(f"cases: no row is called {unknown[0]!r}")
        inserting = {step.name for step in self.steps if step.job == "insert_tumours"}
        if self.cases is not None and self.cases.inserted not in (None, *inserting):
            raise ValueError(f"cases: no step of insert_tumours is called {self.cases.inserted!r}")
        parts = {step.preset for step in self.steps}
        for recipe, presets in self.presets.items():
            if lacking := sorted(parts - presets.keys()):
                raise ValueError(f"presets: {recipe} has none for the part {lacking[0]!r}")
        if (self.epochs is None) != (self.scored != "epochs") or (self.scored == "epochs" and not self.steps):
            raise ValueError("epochs: the report of a study with steps that is scored on epochs, which has to be there")
        shown = [] if self.epochs is None else [*self.epochs.named, *self.epochs.intensities.values()]
        if unknown := [name for name in shown if name not in (*rows, *steps)]:
            raise ValueError(f"epochs: no row or step is called {unknown[0]!r}")
        return self

    def _named(self) -> Iterator[str]:
        """Names of rows that rows, lines, figures and gaps mention."""
        yield from (row.against for row in self.rows if row.against is not None)
        yield from (name for line in self.lines for name in line.cells.values())
        yield from (name for panel in self._panels() for curve in panel.curves.values() for name in curve.values())
        yield from (name for gap in self.gaps for name in gap.rows)

    def _panels(self) -> Iterator[Panel]:
        yield from (panel for figure in self.figures for panel in figure.panels)

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def restricted(self, names: Sequence[str]) -> Study:
        """The study with these rows alone, in its own order, and those that they take a stage from.

        Differences to a row that is left out are left out too, and so are its places in lines, figures and gaps. Raises
        UserError for a name that no row has.
        """
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                raise UserError(f"--rows: no row is called {name!r}; there are {', '.join(known)}")
        names = self._with_sources(names)
        steps = self._steps_of(names)
        rows = [
            row if row.against in names else row.model_copy(update={"against": None})
            for row in self.rows
            if row.name in names
        ]
        lines = [line for line in (line_of(line, names) for line in self.lines) if line.cells]
        of_lines = [line.label for line in lines]
        reference = self.reference if self.reference in (*names, *of_lines) else (*of_lines, rows[0].name)[0]
        return self.model_copy(
            update={
                "rows": rows,
                "reference": reference,
                "lines": lines,
                "figures": [figure for figure in (figure_of(one, names) for one in self.figures) if figure.panels],
                "gaps": [gap for gap in self.gaps if set(gap.rows) <= set(names)],
                "steps": steps,
                "epochs": None if self.epochs is None else self.epochs.of(names, [step.name for step in steps]),
            }
        )

    def _steps_of(self, names: Sequence[str]) -> list[Step]:
        """The steps that these rows need, and what is shown of them."""
        rows = [row for row in self.rows if row.name in names]
        wanted = {source for row in rows for source in row.sources} | ({self.tiles} if self.tiles else set())
        kept = closure(self.steps, wanted)
        if self.epochs is None:
            return kept
        # What is cut to be looked at alone: of what these rows need, too.
        there = {step.name for step in kept}
        seen = [step.name for step in self.steps if step.name in self.epochs.intensities.values()]
        shown = [step.name for step in self.steps if step.name in seen and set(step.sources) <= there]
        return closure(self.steps, there | set(shown))

    def _with_sources(self, names: Sequence[str]) -> list[str]:
        """`names` with the rows that they take stages from, and those that these do."""
        wanted = set(names)
        for row in reversed(self.rows):  # a row's sources are above it
            wanted |= set(row.sources) if row.name in wanted else set()
        return [row.name for row in self.rows if row.name in wanted]

    def paper(self, row: Row | TableLine) -> dict[str, float]:
        """What the paper printed for a row or line, on the scale of our scores."""
        return {str(name): round(value * self.paper_factor.get(name, 1.0), 9) for name, value in row.paper.items()}

    def _fields(self, row: Row, command: Command) -> dict[str, Any]:
        """What a row sets, by section, the study's own fields that its method has below its own."""
        named = {"method": {**_of_method(self.recipe), **_of_method(row.recipe)}}
        common = without_foreign(self.recipe, method_named(command.preset, named))
        return {name: {**common.get(name, {}), **row.recipe.get(name, {})} for name in {**common, **row.recipe}}

    def on_part(self, command: Command, part: str, given: dict[str, Any] | None = None) -> Command:
        """The command on the preset of a part of the study; on its own recipe, where that is none of `presets`.

        `given`: other flags than the command's.
        """
        return command.on(self.presets.get(command.recipe_name, {}).get(part, command.recipe_name), given)

    def recipes(self, command: Command) -> dict[str, Recipe]:
        """The recipe of every row by name: the preset, the row's fields, then the command line's.

        A preset's settings of a method are not those of a row with another one, which has its own paper's. A flag for a
        field that some methods have holds for their rows.

        Raises UserError naming the row for a field that does not exist or a method that is not known, and naming the
        flag for a field that no row's or step's method has.
        """
        if self.steps:
            command = self.on_part(command, next(step.preset for step in self.steps if step.name == self.tiles))
        recipes = {}
        for row in self.rows:
            try:
                own = _without_stages(command.varied(self._fields(row, command)), row.leave_out)
            except UserError as error:
                raise UserError(f"--study: row {row.name}: {error}") from error
            recipes[row.name] = _shortened(own, row.epochs)
        return recipes

    def step_recipes(self, command: Command) -> dict[str, Recipe]:
        """The recipe of every step by name, as far as it is known before others are done; UserError as `recipes`."""
        recipes = {}
        for step in self.steps:
            try:
                recipes[step.name] = self.on_part(command, step.preset).varied(step.recipe)
            except UserError as error:
                raise UserError(f"--study: step {step.name}: {error}") from error
        return recipes


def check_concerned(command: Command, recipes: Mapping[str, Recipe]) -> None:
    """UserError for a flag of a field that no row's (or step's) method has."""
    for field, names in _concerned(command, recipes).items():
        if not names:
            method = next(iter(recipes.values())).method.name
            raise UserError(f"method.{field}: no row of the study has it: {not_its_field(method, field)}")


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


def _without_stages(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """A recipe in which these stages of the method are left out."""
    training = recipe.training
    stages = {**training.stages, **dict.fromkeys(names, 0)}
    return recipe.model_copy(update={"training": training.model_copy(update={"stages": stages})})


def _shortened(recipe: Recipe, share: float) -> Recipe:
    """A recipe with a share of its segmentors' epochs, at least one."""
    settings = recipe.segmentation
    update = {"epochs": max(1, round(share * settings.epochs))}
    return recipe.model_copy(update={"segmentation": settings.model_copy(update=update)})


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
    usual = [row.name for row in study.rows if not row.optional]
    restricted = rows or len(usual) < len(study.rows)
    return Path(asked[0]).stem, study.restricted(rows or usual) if restricted else study


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
