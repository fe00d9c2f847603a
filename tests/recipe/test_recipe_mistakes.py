"""A wrong value is told in one line that names its field, itself and what is allowed."""

import pytest
from pydantic import ValidationError

from metgan_dist.recipe import Recipe
from metgan_dist.recipe.mistakes import LONGEST, first_mistake
from metgan_dist.volumes.dataset import Description


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ({"method": {"alpha1": -3}}, "method.alpha1: -3: input should be greater than or equal to 0"),
        ({"method": {"label_norm": "layer"}}, "method.label_norm: 'layer': input should be 'batch' or 'pixel'"),
        ({"method": {"statistics": "batch"}}, "method.statistics: 'batch': input should be 'running' or 'image'"),
        ({"synthesis": {"transformed": 2}}, "synthesis.transformed: 2: input should be less than or equal to 1"),
        ({"synthesis": {"format": "tiff"}}, "synthesis.format: 'tiff': input should be 'ome-zarr' or 'nifti'"),
        ({"data": {"unmapped": "ignore"}}, "data.unmapped: 'ignore': input should be 'background'"),
        (
            {"data": {"labels": {1: "a"}, "classes": 3}},
            "data: classes: 3, but `labels` names 2, background included; leave `classes` out",
        ),
        (
            {"synthesis": {"real": 0, "merged": 0}},
            "synthesis: one of real, merged and drawn must be above 0, or transformed be 1",
        ),
        ({"method": {"name": "redgan", "organs": "lung,lung"}}, "method: organs must be names that differ"),
        (
            {"method": {"name": "redgan", "organs": "lung,liver,heart", "global_classes": 2}},
            "method: organs are 3, but global_classes is 2",
        ),
        (
            {"training": {"stages": {"joint": -1}}},
            "training.stages.joint: -1: input should be greater than or equal to 0",
        ),
        (
            {"training": {"stages": {"joint": 1}, "stages_from": {"joint": "other"}}},
            "training: stages_from takes 'joint' from another run; leave it out of stages",
        ),
        (
            {"method": {"name": "pix2pix_stroke", "dropout": 1}},
            "method.dropout: 1: input should be less than 1",
        ),
        (
            {"method": {"name": "spade_stroke", "latent": 0}},
            "method.latent: 0: input should be greater than or equal to 1",
        ),
        (
            {"method": {"name": "pix2pix_stroke", "pool": 3}},
            "method.pool: pix2pix_stroke has no such field (metgan, metgan_minus, metgen_cycle, metgen_cond and 7 more "
            "have it); its nearest is method.dropout",
        ),
        (
            {"method": {"segmentor_loss": "ce-dice", "segmentor_positive": 4}},
            "method: segmentor_positive 4 weighs the loss wbce alone, not ce-dice; set it to 2",
        ),
        ({"segmentation": {"cases": 0}}, "segmentation.cases: 0: input should be greater than or equal to 1"),
        (
            {"segmentation": {"least_lesion": -1}},
            "segmentation.least_lesion: -1: input should be greater than or equal to 0",
        ),
        (
            {"training": {"start_checkpoint": "first"}},
            "training.start_checkpoint: 'first': input should be 'best' or 'last'",
        ),
        (
            {"segmentation": {"loss": "ce-dice", "negative": 1}},
            "segmentation: negative 1 weighs the loss wbce alone, not ce-dice; set it to 0.5",
        ),
        ({"training": {"stages_from": {"joint": 3}}}, "training.stages_from.joint: 3: input should be a valid string"),
        (
            {"method": {"name": "pix2pix", "kl": 3}},
            "method.kl: pix2pix has no such field (spade_vae, sean_vae have it); its nearest is method.pool",
        ),
        (
            {"method": {"name": "spade", "alpha4": 3, "latent": 8, "width": 9}},
            "method.alpha4: spade has no such field (metgan, metgen_cycle, metgen_cond, metgen_cond_seg and 3 more "
            "have it); its nearest is method.perceptual (and 1 more)",
        ),
        (
            {"method": {"shape": 2}},
            "method.shape: metgan has no such field (cycle_shape has it); its nearest is method.alpha4",
        ),
        (
            {"method": {"name": "pix3pix", "alpha1": -1}},
            "method.name: no method 'pix3pix'; did you mean pix2pix? known: metgan, metgan_minus, metgen_cycle, "
            "metgen_cond, metgen_cond_seg, pix2pix, pix2pix_seg, cyclegan, cyclegan_seg, spade, spade_vae, sean, "
            "sean_vae, sifa, redgan, cycle_shape, pix2pix_stroke, spade_stroke, lesion_wgan, singan, segmentor",
        ),
        (
            {"method": {"name": "lesion_wgan", "penalty": -1}},
            "method.penalty: -1: input should be greater than or equal to 0",
        ),
        (
            {"method": {"name": "lesion_wgan", "critic_moves": 0}},
            "method.critic_moves: 0: input should be greater than or equal to 1",
        ),
        (
            {"method": {"name": "lesion_wgan", "latent": 0}},
            "method.latent: 0: input should be greater than or equal to 1",
        ),
        ({"method": {"name": 3}}, "method.name: 3: input should be a valid string"),
        ({"method": 3}, "method: 3: input should be a valid dictionary or instance of MethodRecipe"),
        (
            {"method": {"name": "cycle_shape", "shape": -1}},
            "method.shape: -1: input should be greater than or equal to 0",
        ),
        ({"method": {"alpha9": 3}}, "method.alpha9: no such field in a recipe; --help all lists them"),
        (
            {"training": {"epochs": 0}, "method": {"alpha1": -3}},
            "method.alpha1: -3: input should be greater than or equal to 0 (and 1 more)",
        ),
        (
            {"tiles": {"percentiles": [99, 1]}},
            "tiles: percentiles must be two numbers with 0 <= lower < upper <= 100",
        ),
    ],
)
def test_a_mistake_in_a_recipe_is_told_with_field_value_and_remedy(tree, line):
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(tree)
    assert first_mistake(caught.value) == line


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ({}, "volumes: field required"),
        ([], "input should be a valid dictionary or instance of Description"),
        ({"kanals": 1, "volumes": [{"id": "a", "path": "a.tif"}]}, "kanals: no such field in a description"),
    ],
)
def test_other_trees_have_lines_of_their_own(tree, line):
    with pytest.raises(ValidationError) as caught:
        Description.model_validate(tree)
    assert first_mistake(caught.value, "no such field in a description") == line


def test_a_long_value_is_cut():
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"training": {"epochs": "many " * 100}})
    field, value, *_ = first_mistake(caught.value).split(": ")
    assert field == "training.epochs"
    assert value.endswith("...")
    assert len(value) == LONGEST
