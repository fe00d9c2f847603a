"""The whole experiment as one typed tree.

A recipe is data: it imports nothing of the package but its error type. Presets are the YAML files in ``presets/``; a
field is also a command-line flag (``--section.field value``) on every job, parsed by pydantic-settings because
the same pydantic models then give validation, help text and YAML in one place.
"""

from metgan_dist.recipe.data import Channels, Data, Domain, Phantom, VolumeEntry, channel_names
from metgan_dist.recipe.export import Export
from metgan_dist.recipe.freesurfer import FREESURFER
from metgan_dist.recipe.insertion import Insertion
from metgan_dist.recipe.interval import Interval
from metgan_dist.recipe.labels import (
    BACKGROUND,
    LESION,
    AnyLabelNames,
    LabelNames,
    Labels,
    by_file,
    chosen,
    class_names,
    class_numbers,
    label_names,
)
from metgan_dist.recipe.layers import layered
from metgan_dist.recipe.method import MethodRecipe
from metgan_dist.recipe.orientation import STORED, Orientation
from metgan_dist.recipe.outcome import Score, Scores, Storage, Tracking, WholeScore
from metgan_dist.recipe.section import Section
from metgan_dist.recipe.segmentation import Segmentation
from metgan_dist.recipe.synthesis import Synthesis
from metgan_dist.recipe.tiles import Tiles
from metgan_dist.recipe.training import Scaling, Training
from metgan_dist.recipe.tree import Recipe, recipe_names, recipe_tree, stored_recipe, stored_tree
from metgan_dist.recipe.tuning import Tuning

__all__ = [
    "BACKGROUND",
    "FREESURFER",
    "LESION",
    "STORED",
    "AnyLabelNames",
    "Channels",
    "Data",
    "Domain",
    "Export",
    "Insertion",
    "Interval",
    "LabelNames",
    "Labels",
    "MethodRecipe",
    "Orientation",
    "Phantom",
    "Recipe",
    "Scaling",
    "Score",
    "Scores",
    "Section",
    "Segmentation",
    "Storage",
    "Synthesis",
    "Tiles",
    "Tracking",
    "Training",
    "Tuning",
    "VolumeEntry",
    "WholeScore",
    "by_file",
    "channel_names",
    "chosen",
    "class_names",
    "class_numbers",
    "label_names",
    "layered",
    "recipe_names",
    "recipe_tree",
    "stored_recipe",
    "stored_tree",
]
