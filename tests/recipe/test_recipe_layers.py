"""Every method at its own paper's settings, whatever recipe it trains with: a recipe speaks for the method it names."""

import pytest
import yaml
from pydantic import ValidationError

from metgan_dist.errors import UserError
from metgan_dist.methods import METHODS
from metgan_dist.recipe import Recipe, layered, recipe_names, stored_recipe
from metgan_dist.recipe.methods import SECTIONS, section_of
from metgan_dist.runs.command_line import parse_command

METGAN = {
    **{"alpha1": 1, "alpha2": 10, "alpha3": 100, "alpha4": 10, "identity": 0, "pool": 50, "segmentor_network": "unet"},
    **{"backbone": "metgen", "adversarial": "least-squares", "segmentation_loss": "wbce"},
}
# What the ablations leave out, they have no weight of.
ABLATIONS = {
    "metgan_minus": ("alpha4",),
    "metgen_cycle": ("alpha3", "segmentation_loss"),
    "metgen_cond": ("alpha2", "identity", "alpha3", "segmentation_loss"),
    "metgen_cond_seg": ("alpha2", "identity"),
}
PIX2PIX = {"alpha1": 1, "alpha4": 100, "backbone": "unet-256", "adversarial": "log", "pool": 0}
CYCLEGAN = {
    **{"alpha1": 1, "alpha2": 10, "identity": 5, "pool": 50},
    **{"backbone": "unet-256", "adversarial": "least-squares"},
}
SPADE = {"feature_matching": 10, "perceptual": 10, "adversarial": "hinge"}
VAE = {**SPADE, "kl": 0.05, "latent": 256}
# Horvath et al. 2022, section 4.2, for MetGAN and its ablations; Isola et al. 2017; Zhu et al. 2017, with the U-Net of
# Horvath et al.; Park et al. 2019; Zhu et al. 2020 (SEAN); Qasim et al. 2020 (RedGAN); Chen et al. 2020 (SIFA);
# Zhang et al. 2018 (cycle_shape); Platscher et al. 2020 (stroke); Gulrajani et al. 2017, for the lesion masks of the
# latter (lesion_wgan); Shaham et al. 2019 as released (singan).
PAPERS = {
    "metgan": METGAN,
    **{name: {k: v for k, v in METGAN.items() if k not in out} for name, out in ABLATIONS.items()},
    "pix2pix": PIX2PIX,
    "pix2pix_seg": {**PIX2PIX, "alpha3": 100, "segmentation_loss": "wbce"},
    "cyclegan": CYCLEGAN,
    "cyclegan_seg": {**CYCLEGAN, "alpha3": 100, "segmentation_loss": "wbce"},
    "spade": SPADE,
    "spade_vae": VAE,
    "sean": SPADE,
    "sean_vae": VAE,
    "redgan": {**SPADE, "perceptual": 0, "segmentor_network": "resnet-34"},
    "sifa": {"alpha1": 1, "alpha2": 10, "adversarial": "least-squares", "pool": 50},
    "cycle_shape": {
        **{"alpha1": 1, "alpha2": 10, "shape": 1, "from_scratch": False, "synthetic": "online"},
        **{"adversarial": "least-squares", "pool": 50},
    },
    "pix2pix_stroke": {"alpha1": 1, "alpha4": 10, "adversarial": "log"},
    "spade_stroke": {**SPADE, "perceptual": 0, "latent": 128},
    "lesion_wgan": {"penalty": 10, "critic_moves": 5, "latent": 128},
    "singan": {
        **{"coarsest": 25, "finest": 250, "factor": 0.75, "moves": 3},
        **{"reconstruction": 10, "penalty": 0.1, "noise": 0.1},
    },
}
# SPADE, SEAN and RedGAN: 1e-4 and 4e-4, half and twice this rate (methods/label_to_image.py).
BATCH_SIZE = dict.fromkeys(PAPERS, 1) | dict.fromkeys(("sifa", "pix2pix_stroke", "spade_stroke", "lesion_wgan"), 8)
LEARNING_RATE = dict.fromkeys(PAPERS, 2e-4) | {"lesion_wgan": 1e-4, "singan": 5e-4}
# What presets set for the method that they name, MetGAN where they name none.
PRESETS = {
    "quickstart": {"alpha3": 20},
    **{name: {"alpha1": 0.2, "alpha2": 2, "alpha3": 50, "alpha4": 20} for name in ("cells", "cells-3d")},
    "vessels": {"alpha1": 0.2, "alpha2": 2, "alpha3": 5, "alpha4": 50},
    **{f"stroke-segmentation{size}": {"segmentor_network": "unet-stroke"} for size in ("", "-small")},
    **{f"heads-segmentation{size}": {"segmentor_network": "dynunet"} for size in ("", "-small")},
    **{f"heads{size}": {"backbone": "resnet-9"} for size in ("", "-small")},
}
PRESET_TRAINING = {
    **{"cells": (4, 1e-3), "cells-3d": (2, 1e-3), "vessels": (2, 2e-3)},
    **{"quickstart": (2, 1e-3), "cardiac-small": (2, 1e-3), "cardiac-slices": (4, 5e-4)},
    "heads-small": (2, 5e-4),
}


def command(*arguments):
    return parse_command("job.py", "A job.", arguments)


def settings(recipe, names):
    return {name: getattr(recipe.method, name) for name in names}


def test_the_papers_are_those_of_all_methods():
    assert set(PAPERS) | {"segmentor"} == set(METHODS) == set(SECTIONS)


@pytest.mark.parametrize("preset", recipe_names())
def test_every_method_has_its_papers_settings_on_a_preset(preset):
    asked = command("--recipe", preset)
    family = section_of(asked.recipe.method.name).variant_of or asked.recipe.method.name
    for method, paper in PAPERS.items():
        flag, row = {"method": {"name": method}}, asked.varied({"method": {"name": method}})
        own = family in (method, section_of(method).variant_of)
        expected = {k: PRESETS.get(preset, {}).get(k, v) if own else v for k, v in paper.items()}
        assert settings(Recipe.model_validate(layered(asked.preset, flag)), paper) == expected, method
        assert settings(row, paper) == expected, method
        training = (BATCH_SIZE[method], LEARNING_RATE[method])
        if own:
            training = PRESET_TRAINING.get(preset, training)
        assert (row.training.batch_size, row.training.learning_rate) == training, method


def test_a_flag_wins_whatever_the_method():
    asked = command(
        "--recipe", "cells", "--method.name", "pix2pix", "--method.alpha4", "3", "--training.batch_size", "2"
    )
    assert (asked.recipe.method.alpha4, asked.recipe.method.alpha1) == (3, 1)
    row = asked.varied({"method": {"name": "sifa"}, "training": {"learning_rate": 1e-5}})
    assert (row.method.name, row.method.alpha4) == ("pix2pix", 3)
    sifa = command("--recipe", "cells", "--training.batch_size", "2").varied(
        {"method": {"name": "sifa"}, "training": {"learning_rate": 1e-5}}
    )
    assert (sifa.training.batch_size, sifa.training.learning_rate) == (2, 1e-5)


def test_a_file_of_the_users_own_speaks_for_the_method_that_it_names(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: {name: pix2pix, alpha4: 50, width: 0.5, segmentor_epochs: 3}\n")

    def method(name):
        return command("--recipe", str(path), "--method.name", name).recipe.method

    assert [method(name).alpha4 for name in ("pix2pix", "pix2pix_seg", "metgan")] == [50, 50, 10]
    # How large networks are and how long the segmentors learn is nothing that a method's paper found for it alone.
    assert [(method(name).width, method(name).segmentor_epochs) for name in ("pix2pix", "metgan")] == [(0.5, 3)] * 2


def test_a_whole_recipe_as_runs_keep_it_is_a_recipe_for_its_method(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(command("--recipe", "cells").recipe.to_yaml())
    assert command("--recipe", str(path), "--method.name", "cyclegan").recipe.method == (
        command("--recipe", "cells", "--method.name", "cyclegan").recipe.method
    )


def test_stages_are_those_of_the_method_that_they_were_written_for(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: {name: metgan}\ntraining: {stages: {joint: 3}, epochs: 7}\n")
    own, variant, other = (
        command("--recipe", str(path), "--method.name", name).recipe.training
        for name in ("metgan", "metgen_cycle", "sifa")
    )
    assert own.stages == variant.stages == {"joint": 3}
    assert (other.stages, other.epochs) == ({}, 7)


def test_a_layer_that_returns_to_the_first_method_finds_its_settings_again():
    first, row, flags = {"method": {"alpha4": 7}}, {"method": {"name": "pix2pix", "alpha4": 8}}, {"method": {}}
    assert Recipe.model_validate(layered(first, row, flags)).method.alpha4 == 8
    flags = {"method": {"name": "metgan"}}
    assert Recipe.model_validate(layered(first, row, flags)).method.alpha4 == 7


def test_what_no_recipe_can_be_is_left_to_validation():
    assert layered({"method": 3}, {"training": []}, {"method": {"name": 4}}, compared=True)["training"] == []


def test_a_field_of_another_method_is_told_of_the_file_that_has_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: {name: pix2pix, kl: 1}\n")
    # Whatever method a flag names: the file is wrong for its own.
    for flags in ((), ("--method.name", "spade_vae"), ("--method.name", "metgan")):
        with pytest.raises(UserError, match=r"^method\.kl: pix2pix has no such field \(spade_vae, sean_vae have it\)"):
            command("--recipe", str(path), *flags)


def test_what_a_variant_lacks_of_a_recipes_fields_it_is_not_given(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: {name: metgan, alpha2: 3, alpha4: 7}\n")
    method = command("--recipe", str(path), "--method.name", "metgan_minus").recipe.method
    assert method.alpha2 == 3
    assert not hasattr(method, "alpha4")


def test_dropout_at_inference_is_a_wish_that_goes_with_any_generator(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: {name: metgan, stochastic_inference: true}\n")
    assert command("--recipe", str(path), "--method.name", "pix2pix").recipe.method.stochastic_inference
    assert not hasattr(command("--recipe", str(path), "--method.name", "sifa").recipe.method, "stochastic_inference")


# A section as versions before methods had their own stored it.
FLAT = {
    **{"name": "pix2pix", "width": 0.5, "backbone": "unet-256", "adversarial": "log", "pool": 0},
    **{"alpha1": 1.0, "alpha2": 10.0, "alpha3": 100.0, "alpha4": 60.0, "identity": 0.0, "segmentation_loss": "wbce"},
    **{"feature_matching": 10.0, "perceptual": 10.0, "kl": 0.05, "latent": 256, "shape": 1.0, "organs": []},
}


def test_a_stored_recipe_of_an_earlier_version_is_read_without_the_fields_of_other_methods(tmp_path):
    stored = stored_recipe({"method": FLAT, "training": {"epochs": 3}})
    assert (stored.method.alpha4, stored.method.width, stored.training.epochs) == (60, 0.5, 3)
    assert not {"alpha2", "kl", "organs"} & stored.method.model_dump().keys()
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"method": FLAT}))
    assert command("--recipe", str(path)).recipe.method == stored.method
    assert command("--recipe", str(path), "--method.name", "cyclegan").recipe.method == (
        Recipe.model_validate({"method": {"name": "cyclegan", "width": 0.5}}).method
    )
    with pytest.raises(UserError, match=r"^method\.kl: pix2pix has no such field"):
        command("--recipe", str(path), "--method.kl", "1")


def test_a_stored_recipe_keeps_what_is_no_methods_field_to_be_told():
    with pytest.raises(ValidationError, match="alpha9"):
        stored_recipe({"method": {**FLAT, "alpha9": 1}})
