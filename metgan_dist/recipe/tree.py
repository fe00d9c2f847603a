"""The recipe itself, and where presets come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from metgan_dist.errors import UserError
from metgan_dist.recipe.data import Data
from metgan_dist.recipe.export import Export
from metgan_dist.recipe.insertion import Insertion
from metgan_dist.recipe.layers import method_named, without_foreign
from metgan_dist.recipe.methods import AnyMethod
from metgan_dist.recipe.methods.metgan import MetGANRecipe
from metgan_dist.recipe.outcome import Scores, Storage, Tracking
from metgan_dist.recipe.section import Section
from metgan_dist.recipe.segmentation import Segmentation
from metgan_dist.recipe.synthesis import Synthesis
from metgan_dist.recipe.tiles import Tiles
from metgan_dist.recipe.training import Scaling, Training
from metgan_dist.recipe.tuning import Tuning
from metgan_dist.recipe.yaml_file import read_yaml

PRESETS = Path(__file__).parent / "presets"
# No method has all of these, and nobody writes them by hand: earlier versions stored the fields of all methods.
_OF_ALL_METHODS = frozenset({"alpha2", "alpha3", "alpha4", "feature_matching", "kl", "pool"})


class Recipe(Section):
    """Everything that defines an experiment."""

    data: Data = Data()
    tiles: Tiles = Tiles()
    method: AnyMethod = MetGANRecipe()
    training: Training = Training()
    scaling: Scaling = Scaling()
    tuning: Tuning = Tuning()
    synthesis: Synthesis = Synthesis()
    insertion: Insertion = Insertion()
    segmentation: Segmentation = Segmentation()
    export: Export = Export()
    scores: Scores = Scores()
    tracking: Tracking = Tracking()
    storage: Storage = Storage()

    def to_yaml(self) -> str:
        """The recipe as YAML that loads back into the same recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def stored_recipe(tree: Any) -> Recipe:
    """The recipe of a tree that this version or an earlier one stored.

    Raises pydantic's ValidationError where it has fields that are not known any more.
    """
    return Recipe.model_validate(stored_tree(tree))


def stored_tree(tree: Any) -> Any:
    """A stored tree as it is stored now: without the fields of other methods, which earlier versions kept."""
    return without_foreign(tree, method_named(tree)) if isinstance(tree, dict) else tree


def recipe_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def recipe_tree(name_or_path: str) -> dict[str, Any]:
    """The raw tree of a preset or a YAML file, before validation; of one that a run stored, as `stored_tree` has it.

    Raises UserError when it is neither a preset nor a readable YAML file with the recipe's sections.
    """
    path = PRESETS / f"{name_or_path}.yaml"
    if not path.is_file():
        path = Path(name_or_path)
        if not path.is_file():
            raise UserError(f"--recipe {name_or_path}: no such preset or file; presets: {', '.join(recipe_names())}")
    tree = read_yaml(str(path), path.read_bytes())
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a recipe is a YAML mapping with the sections {', '.join(Recipe.model_fields)}")
    method = tree.get("method")
    return stored_tree(tree) if isinstance(method, dict) and method.keys() >= _OF_ALL_METHODS else tree
