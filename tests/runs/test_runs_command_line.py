"""The contract of every job's command line: presets, flags, help, and mistakes in one line."""

import pytest
import yaml

from metgan_dist.errors import UserError
from metgan_dist.methods import method_class
from metgan_dist.recipe import Recipe, recipe_names, recipe_tree
from metgan_dist.runs.command_line import JobFlag, parse_command


def parse(*arguments):
    return parse_command("job.py", "A job.", arguments)


@pytest.mark.parametrize("name", recipe_names())
def test_every_preset_is_a_valid_recipe_that_survives_yaml(name):
    recipe = Recipe.model_validate(recipe_tree(name))
    assert Recipe.model_validate(yaml.safe_load(recipe.to_yaml())) == recipe


def test_the_named_recipes_are_there():
    assert {"quickstart", "metastases", "nerves", "cells", "vessels", "cfos", "brain-dwi", "cardiac"} <= set(
        recipe_names()
    )


def test_flags_win_over_the_recipe_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: {alpha1: 3, alpha2: 4}\n")
    method = parse("--recipe", str(path), "--method.alpha2", "5").recipe.method
    assert (method.alpha1, method.alpha2, method.alpha3) == (3, 5, 100)


def test_lists_are_comma_separated():
    tiles = parse("--tiles.size", "86,112,112", "--tiles.kind", "crop", "--tiles.views", "z,x").recipe.tiles
    assert tiles.size == (86, 112, 112)
    assert tiles.views == ("z", "x")


def test_metastases_is_the_paper():
    recipe = parse("--recipe", "metastases").recipe
    method, training = recipe.method, recipe.training
    assert (method.alpha1, method.alpha2, method.alpha3, method.alpha4) == (1, 10, 100, 10)
    assert method.width == 1
    assert (training.epochs, training.batch_size, training.learning_rate, training.decay_from) == (200, 1, 2e-4, 0.5)
    assert recipe.tiles.size == (300,)
    assert recipe.tiles.resize == 256
    assert recipe.tiles.kind == "projection"


def test_nerves_are_trained_without_a_segmentor_as_in_the_paper():
    recipe = Recipe.model_validate(recipe_tree("nerves"))
    assert recipe.method.name == "metgen_cycle"  # the best row of paper 1's table 3
    assert not method_class(recipe.method.name).needs_segmentor(recipe)
    assert recipe.tiles.kind == "slice"


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["--method.alpha1", "-3"], "method.alpha1"),
        (["--method.alpha9", "3"], "method.alpha9"),
        (["--tiles.size", "64,a"], "tiles.size"),
        (["--tiles.kind", "cube"], "tiles.kind"),
        (["--tiles.percentiles", "99,1"], "tiles"),
        (["--training.precision", "fp8"], "training.precision"),
        (["--recipe", "nothing"], "nothing"),
        (["--training.epochs"], "training.epochs"),
        (["--tuning.space", '{"method.alpha1": {'], "tuning.space"),
    ],
)
def test_a_mistake_is_one_line_naming_the_culprit(arguments, culprit):
    with pytest.raises(UserError) as caught:
        parse(*arguments)
    assert culprit in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_field_in_a_recipe_file_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("training: {epoch: 3}\n")
    with pytest.raises(UserError, match=r"training\.epoch: no such field"):
        parse("--recipe", str(path))


def test_help_lists_every_field_with_range_and_default(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for section, model in Recipe.model_fields.items():
        for field in model.annotation.model_fields:
            assert f"--{section}.{field}" in text, f"{section}.{field}"
    assert "fraction of volumes (or of the slab axis) held out for the scores [>= 0, < 1] (default: 0.2)" in text


def test_a_jobs_own_flags_are_lists_that_may_be_repeated(capsys):
    runs = [JobFlag("runs", "RUN", "what to compare")]
    own = parse_command("job.py", "A job.", ["--runs", "a, b", "--runs=c", "--method.alpha1", "2"], runs)
    assert own.own == {"runs": ["a", "b", "c"]}
    assert own.recipe.method.alpha1 == 2
    assert parse_command("job.py", "A job.", [], runs).own == {"runs": []}
    with pytest.raises(UserError, match="--runs"):
        parse("--runs", "a")
    with pytest.raises(SystemExit):
        parse_command("job.py", "A job.", ["--help"], runs)
    assert "usage: job.py --runs RUN [--recipe" in capsys.readouterr().out


def test_a_positional_argument_of_a_job_is_one_value_wherever_it_stands():
    flags = [JobFlag("reference", "RUN", "what to look at", positional=True), JobFlag("format", "F", "how")]
    for arguments in (["a,b", "--storage.path", "/x"], ["--storage.path", "/x", "--format", "json", "a,b"]):
        command = parse_command("job.py", "A job.", arguments, flags)
        assert command.own["reference"] == ["a,b"]
        assert command.recipe.storage.path == "/x"
        assert command.given == {"storage": {"path": "/x"}}
    with pytest.raises(UserError, match="required: RUN"):
        parse_command("job.py", "A job.", ["--storage.path", "/x"], flags)


def test_a_varied_recipe_keeps_what_the_command_line_set():
    command = parse("--recipe", "cells", "--method.alpha1", "3")
    recipe = command.varied({"method": {"name": "pix2pix", "alpha1": 1, "alpha4": 7}})
    assert (recipe.method.name, recipe.method.alpha1, recipe.method.alpha4) == ("pix2pix", 3, 7)
    assert recipe.method.backbone == "unet-256"
    assert recipe.method.width == 0.25
    with pytest.raises(UserError, match=r"training\.epochs"):
        command.varied({"training": {"epochs": 0}})
