"""From a command line to a validated recipe: presets, YAML files and ``--section.field value``.

pydantic-settings turns the recipe's own pydantic models into flags, so a field is declared, documented and
checked in one place. This module adds the preset, three switches, and errors of one line.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from typing import Any, NoReturn

from pydantic import ValidationError, create_model
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from metgan_dist.errors import UserError
from metgan_dist.recipe import Data, Recipe, layered, recipe_names, recipe_tree
from metgan_dist.recipe.layers import method_named, without, without_foreign
from metgan_dist.recipe.mistakes import first_mistake, uncapitalised
from metgan_dist.runs.help_page import add_help
from metgan_dist.runs.method_flags import all_methods_fields, group_method_flags

DEFAULT_RECIPE = "quickstart"
LIKE = 0.8  # least likeness of a flag that may have been meant, as difflib counts it
# Section, a flag, and the field of a recipe that yields to it.
_INSTEAD = (
    ("tiles", "size", "resize"),
    ("data", "floor", "floor_relative"),
    ("data", "floor_relative", "floor"),
)


@dataclass(frozen=True)
class JobFlag:
    """A flag that one job has beside the recipe's fields; it takes a comma-separated list and may be repeated.

    A positional one takes a single value as it is, and must be given; `needed` says that the job does not go without.
    """

    name: str
    metavar: str
    help: str
    positional: bool = False
    needed: bool = False

    @property
    def usage(self) -> str:
        """How it stands in the line that shows all flags."""
        if self.positional:
            return self.metavar
        flag = f"--{self.name} {self.metavar}"
        return flag if self.needed else f"[{flag}]"


@dataclass(frozen=True)
class Command:
    """What a job was asked to do: the resolved recipe, where it came from, and the switches.

    `preset` is the tree of the preset alone (without what yields to a flag), `given` that of the fields set on the
    command line, of any method where the job is one of several, `own` the values of the job's own flags: what jobs need
    that start others with recipes of their own.
    """

    recipe: Recipe
    recipe_name: str
    dry_run: bool
    debug: bool
    preset: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    own: dict[str, list[str]] = field(default_factory=dict)

    def varied(self, changes: dict[str, Any]) -> Recipe:
        """The recipe with `changes` (a study's row) between preset and command line: what the user set stays set.

        Where another method than the preset's comes out, it has its own paper's settings (see `layered`); flags for
        fields that it does not have are for other rows. Raises UserError naming the field that is wrong.
        """
        given = without_foreign(self.given, method_named(self.preset, changes, self.given))
        return _validated(layered(self.preset, changes, given, compared=True))

    @property
    def own_data(self) -> Data:
        """The section `data` without what the default recipe, which is for a phantom, says of channels and labels."""
        if self.recipe_name != DEFAULT_RECIPE:
            return self.recipe.data
        return Data.model_validate(self.given.get("data", {}))

    def on(self, recipe_name: str, given: dict[str, Any] | None = None) -> Command:
        """The same flags, or those of `given`, on another preset or YAML file, as one of several methods."""
        flags = self.given if given is None else given
        tree, recipe = _laid_out(recipe_name, flags, several_methods=True)
        return replace(self, recipe=recipe, recipe_name=recipe_name, preset=tree, given=flags)


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose mistakes are UserErrors instead of a usage page."""

    def error(self, message: str) -> NoReturn:
        """A mistake as a UserError of one line; argparse would print the usage and exit."""
        unknown = re.match(r"unrecognized arguments: (--[\w.]+)", message)
        near = get_close_matches(unknown[1], self._option_string_actions, 1, LIKE) if unknown else []
        meant = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"command line: {message}; {meant}--help all lists every field")


class _Once(argparse.Action):
    """Of a flag whose second value would silently win."""

    def __call__(
        self, parser: argparse.ArgumentParser, given: argparse.Namespace, value: Any, flag: Any = None
    ) -> None:
        """Keep the value; a mistake where there is one already."""
        if getattr(given, f"{self.dest}_given", False):
            parser.error(f"{flag}: given twice, give one")
        setattr(given, f"{self.dest}_given", True)
        setattr(given, self.dest, value)


class _Settings(Recipe, BaseSettings):
    """The recipe as pydantic-settings wants it, to make flags of its fields."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)


@cache
def _settings() -> type[_Settings]:
    """With the fields of all methods, which a flag may set: whether they are the chosen one's is told later."""
    fields = all_methods_fields()
    return create_model("_RecipeSettings", __base__=_Settings, method=(fields, fields.model_construct(name="")))


def parse_command(
    job: str, purpose: str, arguments: Sequence[str], own: Sequence[JobFlag] = (), several_methods: bool = False
) -> Command:
    """Resolve the command line of `job`, which has the flags `own` beside the recipe's fields, into a Command.

    With `several_methods` the job is one of several methods, as a study is: flags for fields that the recipe's own
    method does not have are not for it (see `Command.varied`).

    Flags win over the recipe named by ``--recipe``, which wins over the defaults of the fields; a method that a flag
    names takes no loss weights from a recipe for another one (see `layered`). A preset's own data set (its volumes,
    channels and classes) yields to what the data set that ``--data.path`` names says of itself.
    Raises UserError, in one line that names the field, its value and what is allowed.
    """
    chosen: dict[str, Any] = {}

    def parse(parser: argparse.ArgumentParser, texts: Sequence[str]) -> argparse.Namespace:
        """Parse as the settings source asks, and keep a copy of all that was given in `chosen`."""
        group_method_flags(parser, texts)
        parsed = parser.parse_args(texts)
        chosen.update(vars(parsed))  # the source goes on to change what it gets
        return parsed

    try:
        source = CliSettingsSource[Any](
            _settings(),
            root_parser=_parser(job, purpose, own),
            parse_args_method=parse,
            cli_parse_args=list(arguments),
            cli_hide_none_type=True,
            cli_avoid_json=True,
            cli_prog_name=job,
        )
    except SettingsError as error:  # a value that is to be JSON and is none
        raise UserError(f"command line: {uncapitalised(str(error))}; see --help for an example") from error
    try:
        given = source()
    except (SettingsError, ValueError) as error:  # a value that no JSON reader takes, such as nan or 5,000 digits
        raise UserError(f"command line: {_unreadable(arguments, error)}") from error
    tree, recipe = _laid_out(chosen["recipe"], given, several_methods)
    values = {flag.name: _values(flag, chosen[flag.name]) for flag in own}
    return Command(recipe, chosen["recipe"], chosen["dry_run"], chosen["debug"], tree, given, values)


def _unreadable(arguments: Sequence[str], error: Exception) -> str:
    """Which flag has a value that cannot be read, as far as that is known: the first of the section in question."""
    found = re.search(r'field "(\w+)"', str(error))
    flags = [text.partition("=")[0] for text in arguments if found and text.startswith(f"--{found[1]}.")]
    return f"{' or '.join(dict.fromkeys(flags)) or 'a flag'}: a value that cannot be read; see --help for an example"


def _laid_out(name: str, given: dict[str, Any], several_methods: bool) -> tuple[dict[str, Any], Recipe]:
    """The tree of a preset or file without what yields to flags, and the recipe of both."""
    tree = _yielding(recipe_tree(name), given)
    flags = without_foreign(given, method_named(tree, given)) if several_methods else given
    recipe = _validated(layered(tree, flags))
    if name in recipe_names() and "path" in given.get("data", {}):
        tree = _for_given_data(tree, recipe)
        recipe = _validated(layered(tree, flags))
    return tree, recipe


def _validated(tree: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(first_mistake(error)) from error


def _yielding(tree: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Without fields of the recipe that say otherwise what a flag says.

    Tiles have the size that the user gives, what is background has one rule, and a stage that is taken from another run
    has no length.
    """
    for section, flag, other in _INSTEAD:
        flags = given.get(section, {})
        if flag in flags and other not in flags:
            tree = without(tree, section, {other})
    taken = given.get("training", {}).get("stages_from", {})
    lengths = {name: epochs for name, epochs in _lengths(tree).items() if name not in taken}
    if lengths == _lengths(tree):
        return tree
    return {**tree, "training": {**tree["training"], "stages": lengths}}


def _lengths(tree: dict[str, Any]) -> dict[str, Any]:
    section = tree.get("training")
    stages = section.get("stages") if isinstance(section, dict) else None
    return stages if isinstance(stages, dict) else {}  # what else there is is refused with the rest of the recipe


def _for_given_data(tree: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """A preset's tree without what the user's data set says of itself: volumes, channels, classes."""
    from metgan_dist.volumes.dataset import fields_of_its_own  # loads the formats, for which `--help` need not wait

    return without(tree, "data", fields_of_its_own(recipe.data, recipe.storage.options))


def _values(flag: JobFlag, given: Any) -> list[str]:
    if flag.positional:
        return [given]
    return [part.strip() for text in given for part in text.split(",") if part.strip()]


def _parser(job: str, purpose: str, own: Sequence[JobFlag]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=job,
        usage=" ".join(
            [
                "%(prog)s",
                *(flag.usage for flag in own),
                "[--recipe NAME|PATH] [--section.field value ...] [--dry-run] [--debug]",
            ]
        ),
        description=purpose,
        allow_abbrev=False,
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=textwrap.dedent(
            """\
            Any field of the recipe is a flag (--help all); lists are comma separated (--tiles.views z,y,x).
            Exit codes: 0 done, 2 a mistake in the input (one line says which), 1 anything else."""
        ),
    )
    add_help(parser)
    parser.add_argument(
        "--recipe",
        action=_Once,
        metavar="NAME|PATH",
        default=DEFAULT_RECIPE,
        help=f"preset or YAML file: {', '.join(recipe_names())}",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved recipe and the resource plan, and stop"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    for flag in own:
        if flag.positional:
            parser.add_argument(flag.name, metavar=flag.metavar, help=flag.help)
        else:
            parser.add_argument(f"--{flag.name}", metavar=flag.metavar, action="append", default=[], help=flag.help)
    return parser
