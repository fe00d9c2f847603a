"""Trainings on tiles of image and label alone: who draws from labels takes them, who translates an anatomy does not."""

import pytest
import torch
from alone import assignment
from tile_sets import write_set
from unmapped_brains import describe_heads, write_heads

from metgan_dist.main_job import check_training
from metgan_dist.recipe import Recipe
from metgan_dist.runs.open_run import resolved
from metgan_dist.trained import load_generator
from metgan_dist.training.launch import run_training


@pytest.fixture
def tiles(tmp_path):
    return write_set(tmp_path / "tiles", anatomy="", test=5, train=8)


def recipe(tiles, name, **method):
    fields = {"name": name, "width": 1 / 16, **method}
    return Recipe.model_validate(
        {
            "data": {"path": tiles.uri},
            "method": {**fields, "segmentor_width": 1 / 16},
            "training": {
                "max_steps": 3,
                "batch_size": 2,
                "validate_every": 4,
                "checkpoint_every": 4,
                "precision": "fp32",
            },
            "scaling": {"workers": 0},
        }
    )


@pytest.mark.parametrize("name", ["pix2pix_stroke", "spade_stroke"])
def test_a_training_on_tiles_without_an_anatomy_goes_to_its_end_with_validation_and_pictures(tiles, tmp_path, name):
    own = resolved(recipe(tiles, name))
    check_training(own)
    trained = run_training(assignment(tmp_path, name, own, tiles.uri), print)
    assert trained.images == 6
    assert (trained.score is None) == (name == "spade_stroke")  # no judge is there to say how it does
    method = load_generator(trained.last)
    assert method.translate({"label": torch.zeros(1, 64, 64, dtype=torch.int64)}).shape == (1, 1, 64, 64)


def test_a_translator_of_brains_refuses_maps_of_lesions_alone_and_names_the_field_that_makes_others(tmp_path, mistake):
    folder = describe_heads(write_heads(tmp_path), tissue_map=None)
    tiles = {"kind": "slice", "size": 64, "stride": 64, "gap": 0, "grid": [4, 64, 64], "split_by": "volume"}
    for name in ("pix2pix_stroke", "spade_stroke"):
        own = {"path": str(folder), "anatomy": "", "tumour": "c0"}
        tree = {"data": own, "tiles": tiles, "method": {"name": name}}
        with mistake(f"data.label: the label maps have lesions and no tissue, and {name}", "data.tissue_map to kmeans"):
            check_training(Recipe.model_validate(tree))
        check_training(Recipe.model_validate({**tree, "data": {**own, "tissue_map": "kmeans"}}))


def test_a_method_that_translates_an_anatomy_refuses_such_tiles_in_a_line(tiles, mistake):
    for name in ("metgan", "pix2pix", "cyclegan"):
        with mistake("data.anatomy: ", "these tiles have no anatomy to train on"):
            check_training(resolved(recipe(tiles, name)))
