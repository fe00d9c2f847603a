"""The contract of every job's command line: presets, flags, help, and mistakes in one line."""

import json

import pytest
import yaml

from metgan_dist.errors import UserError
from metgan_dist.methods import method_class
from metgan_dist.recipe import Recipe, recipe_names, recipe_tree, stored_recipe
from metgan_dist.recipe.methods import SECTIONS
from metgan_dist.runs.command_line import JobFlag, parse_command
from metgan_dist.runs.open_run import resolved


def parse(*arguments):
    return parse_command("job.py", "A job.", arguments)


@pytest.mark.parametrize("name", recipe_names())
def test_every_preset_is_a_valid_recipe_that_survives_yaml(name):
    recipe = Recipe.model_validate(recipe_tree(name))
    assert Recipe.model_validate(yaml.safe_load(recipe.to_yaml())) == recipe


def test_the_named_recipes_are_there():
    lightsheet = {"metastases", "nerves", "cells", "cells-3d", "vessels", "cfos"}
    assert {"quickstart", "brain-dwi", "cardiac", "cardiac-small", "cardiac-slices", *lightsheet} <= set(recipe_names())
    assert {"stroke", "stroke-segmentation"} <= set(recipe_names())
    assert {"heads", "heads-small", "heads-segmentation", "heads-segmentation-small"} <= set(recipe_names())


def test_flags_win_over_the_recipe_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: {alpha1: 3, alpha2: 4}\n")
    method = parse("--recipe", str(path), "--method.alpha2", "5").recipe.method
    assert (method.alpha1, method.alpha2, method.alpha3) == (3, 5, 100)


def test_lists_are_comma_separated():
    tiles = parse("--tiles.size", "86,112,112", "--tiles.kind", "crop", "--tiles.views", "z,x").recipe.tiles
    assert tiles.size == (86, 112, 112)
    assert tiles.views == ("z", "x")


def test_stages_are_named_in_flags():
    flags = ("--training.stages", "pretrain=20,joint=0", "--training.stages_from", "both=other")
    training = parse(*flags).recipe.training
    assert (training.stages, training.stages_from) == ({"pretrain": 20, "joint": 0}, {"both": "other"})
    with pytest.raises(UserError, match=r"^training\.stages\.joint: 'many': input should be a valid integer"):
        parse("--training.stages", "joint=many")


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
    assert "segmentor" not in method_class(recipe.method.name).needs(recipe)
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
        (
            ["--training.augment", "often"],
            "training.augment: 'often': must be flips (or true), affine, affine-shift, or none",
        ),
        (["--training.checkpoint_gradients", "twice"], "training.checkpoint_gradients"),
        (["--training.compile", "true", "--training.checkpoint_gradients", "true"], "checkpoint_gradients does not go"),
        (["--recipe", "nothing"], "nothing"),
        (["--training.epochs"], "training.epochs"),
        (["--method.name", "cycle_shape", "--method.shape", "-1"], "method.shape: '-1': input should be greater"),
        (["--method.name", "cycle_shape", "--method.from_scratch", "perhaps"], "method.from_scratch: 'perhaps'"),
        (["--method.name", "redgan", "--method.organs", "a,a"], "method: organs must be names that differ"),
        (["--method.kl", "1", "--method.name", "pix2pix"], "method.kl: pix2pix has no such field (spade_vae, sean_vae"),
        (["--method.alpha3", "5", "--method.name", "metgen_cycle"], "method.alpha3: metgen_cycle has no such field"),
        (["--recipe", "cardiac-small", "--method.alpha4", "1"], "method.alpha4: cycle_shape has no such field"),
        (["--method.name", "pix3pix"], "method.name: no method 'pix3pix'; did you mean pix2pix?"),
        (["--method.name", "cycle_shape", "--method.synthetic", "sometimes"], "method.synthetic"),
        (["--method.name", "cycle_shape", "--method.judge_share", "0.7"], "method.judge_share: '0.7'"),
        (["--training.shares", "target=0"], "training.shares.target: '0'"),
        (["--training.shares", "mr=0.5"], "training.shares.mr"),
        (["--data.phantom.modality", "cardiac-pet"], "data.phantom.modality"),
        (["--tuning.space", '{"method.alpha1": {'], "tuning.space"),
    ],
)
def test_a_mistake_is_one_line_naming_the_culprit(arguments, culprit):
    with pytest.raises(UserError) as caught:
        parse(*arguments)
    assert culprit in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("flips", True),
        ("true", True),
        ("none", False),
        ("False", False),
        ("affine", "affine"),
        ("off", False),
        ("affine-shift", "affine-shift"),
    ],
)
def test_what_recipes_said_of_augmentation_before_stays_what_they_say(text, kept):
    assert parse("--training.augment", text).recipe.training.augment == kept
    assert Recipe.model_validate({"training": {"augment": kept}}).training.augment == kept
    assert yaml.safe_load(Recipe(training={"augment": kept}).to_yaml())["training"]["augment"] == kept


def test_an_unknown_field_in_a_recipe_file_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("training: {epoch: 3}\n")
    with pytest.raises(UserError, match=r"training\.epoch: no such field"):
        parse("--recipe", str(path))


def test_a_stage_that_a_flag_takes_from_a_run_has_no_length_of_the_recipe():
    training = parse("--recipe", "cardiac-small", "--training.stages_from", "segmentors=mine").recipe.training
    assert training.stages_from == {"segmentors": "mine"}
    assert set(training.stages) == {"translation", "together", "falling"}
    with pytest.raises(UserError, match=r"stages_from takes 'segmentors' from another run"):
        parse("--training.stages_from", "segmentors=mine", "--training.stages", "segmentors=3")


def test_a_flag_that_is_not_there_is_told_with_the_one_that_is_like_it():
    with pytest.raises(UserError, match=r"--training\.max_step 5; did you mean --training\.max_steps\? --help all"):
        parse("--training.max_step", "5")
    with pytest.raises(UserError, match=r"--nothing; --help all"):
        parse("--nothing")


def test_help_all_lists_every_field_with_range_and_default(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help", "all")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for section, model in Recipe.model_fields.items():
        for field in model.annotation.model_fields:
            assert f"--{section}.{field}" in text, f"{section}.{field}"
    for section in SECTIONS.values():
        for field in section.model_fields:
            assert f"--method.{field} " in text, f"method.{field}"
    assert "fraction of volumes (or of the slab axis) held out for the scores [>= 0, < 1] (default: 0.2)" in text


def helped(capsys, *arguments):
    """The help's part on the method, by the line under each heading; that of all methods under ""."""
    with pytest.raises(SystemExit):
        parse(*arguments, "--help", "all")
    text = capsys.readouterr().out
    own = text[text.index("\nmethod options") : text.index("\ntraining options")]
    first, *others = own.split("\nmethod options of:\n")
    parts = {"": first, **{names.strip(): rest for names, rest in (part.split("\n\n", 1) for part in others)}}
    return {names: " ".join(part.split()) for names, part in parts.items()}


def test_help_shows_a_methods_fields_once_under_the_methods_that_have_them(capsys):
    parts = helped(capsys)
    for section in SECTIONS.values():
        for field in section.model_fields:
            assert sum(part.count(f"--method.{field} ") for part in parts.values()) == 1, field
    assert "--method.width" in parts[""]
    assert "(default: unet; redgan: resnet-34)" in parts[""]
    assert "(default: 10.0; pix2pix, pix2pix_seg: 100.0)" in next(part for part in parts.values() if "alpha4" in part)
    assert "--method.kl float" in parts["spade_vae, sean_vae"]
    assert "--method.organs" in parts["redgan"]


def test_help_shows_the_fields_of_the_method_that_is_named_alone(capsys):
    for arguments in (("--method.name", "redgan"), ("--method.name=redgan",)):
        parts = helped(capsys, *arguments)
        assert set(parts) == {"", "redgan"}
        assert "[>= 0] (default: 0.0)" in parts["redgan"].partition("--method.perceptual")[2]
        assert "(default: resnet-34)" in parts[""]
        assert "alpha1" not in "".join(parts.values())
    assert set(helped(capsys, "--method.name", "nobody")) == set(helped(capsys))


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
    assert "usage: job.py [--runs RUN] [--recipe" in capsys.readouterr().out
    needed = [JobFlag("study", "NAME", "which", needed=True)]
    with pytest.raises(SystemExit):
        parse_command("job.py", "A job.", ["--help"], needed)
    assert "usage: job.py --study NAME [--recipe" in capsys.readouterr().out


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


ENTRY = {"id": "mine", "path": "mine.ome.zarr", "label": "spots.tif"}


@pytest.mark.parametrize("preset", ["cells", "vessels", "cfos", "brain-dwi"])
def test_a_preset_yields_to_the_users_data_set(tmp_path, preset):
    described = {"anatomy": "grey", "tumour": "bright", "classes": 4, "volumes": [ENTRY]}
    for name in ("mine.ome.zarr", "spots.tif"):
        (tmp_path / name).touch()
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(described))
    for path in (tmp_path, tmp_path / "dataset.yaml"):
        command = parse("--recipe", preset, "--data.path", str(path))
        data = resolved(command.recipe).data
        assert (data.anatomy, data.tumour, data.classes) == ("grey", "bright", 4)
        assert [entry.id for entry in data.volumes] == ["mine"]
        assert command.varied({"method": {"alpha1": 3}}).data == command.recipe.data
    flags = ("--data.tumour", "other", "--data.classes", "4")
    data = resolved(parse("--recipe", preset, "--data.path", str(tmp_path), *flags).recipe).data
    assert (data.anatomy, data.tumour) == ("grey", "other")


def test_a_preset_describes_the_data_set_that_it_was_made_for_where_that_describes_nothing(tmp_path):
    (tmp_path / "tumour-3ch.ome.zarr").mkdir()
    data = parse("--recipe", "vessels", "--data.path", str(tmp_path)).recipe.data
    assert ([entry.id for entry in data.volumes], data.tumour) == (["tumour"], "vessel")
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"volumes": [ENTRY]}))
    data = parse("--recipe", "vessels", "--data.path", str(tmp_path)).recipe.data
    assert (data.volumes, data.tumour) == ([], "vessel")
    mine = tmp_path / "mine.ome.zarr"
    mine.mkdir()
    assert parse("--recipe", "vessels", "--data.path", str(mine)).recipe.data.volumes == []


def test_a_recipe_of_ones_own_lists_its_volumes(tmp_path):
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"volumes": [ENTRY]}))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"data": {"volumes": [{**ENTRY, "id": "other"}]}}))
    data = parse("--recipe", str(tmp_path / "mine.yaml"), "--data.path", str(tmp_path)).recipe.data
    assert [entry.id for entry in data.volumes] == ["other"]


def test_tiles_have_the_size_that_a_flag_gives():
    def tiles(*flags):
        return parse("--recipe", "metastases", *flags).recipe.tiles

    assert tiles().shape == (256, 256)
    assert tiles("--tiles.size", "128").shape == (128, 128)
    assert tiles("--tiles.size", "320", "--tiles.resize", "256").shape == (256, 256)
    assert tiles("--tiles.resize", "128").shape == (128, 128)


def test_what_is_background_has_the_one_rule_that_a_flag_gives():
    def floors(*flags):
        data = parse("--recipe", "stroke-small", *flags).recipe.data
        return data.floor, data.floor_relative

    assert floors() == (None, 0.1)
    assert floors("--data.floor", "35") == (35, None)
    assert floors("--data.floor_relative", "0.05") == (None, 0.05)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("tiles.views", "z,z,z", "views 'z,z,z'"),
        ("tiles.views", "z,y,z", "once"),
        ("tiles.spacing", "2,-1,1", "tiles.spacing.1: -1: input should be greater than 0"),
        ("tiles.spacing", "2,nan,1", "tiles.spacing: '[2,nan,1]'"),
        ("tiles.spacing", "2,inf,1", "tiles.spacing: '[2,inf,1]'"),
        ("tiles.spacing", "2,1,1,1", "tiles.spacing"),
    ],
)
def test_fields_that_say_nothing_sensible_are_named(field, value, said):
    with pytest.raises(UserError) as caught:
        parse(f"--{field}", value)
    assert said in str(caught.value)


@pytest.mark.parametrize(("given", "kept"), [("a", "a"), ("a,b", ["a", "b"]), ("", "")])
def test_channels_are_comma_separated_and_a_single_one_stays_a_string(given, kept):
    recipe = parse("--data.tumour", given).recipe
    assert recipe.data.tumour == kept
    assert yaml.safe_load(recipe.to_yaml())["data"]["tumour"] == kept


def test_domains_are_given_as_json(mistake):
    domains = {"ct": {"channels": ["a", "b"], "modality": "cardiac-ct"}, "mr": {"percentiles": [1, 99]}}
    given = parse("--data.domains", json.dumps(domains), "--data.source", "mr", "--data.target", "ct").recipe.data
    assert {name: one.model_dump(exclude_none=True) for name, one in given.domains.items()} == {
        "ct": {"channels": ["a", "b"], "modality": "cardiac-ct"},
        "mr": {"percentiles": (1, 99)},
    }
    assert (given.source, given.target) == ("mr", "ct")
    # JSON has lists of its own: a string is one name.
    single = parse("--data.domains", '{"ct": {"channels": "a, b"}}').recipe.data.domains
    assert single["ct"].channels == "a, b"
    with mistake("data.domains.ct.channel: no such field"):
        parse("--data.domains", '{"ct": {"channel": "a"}}')


def test_a_channel_named_twice_is_refused(mistake):
    with mistake("data.tumour", "channel 'a' is named twice"):
        parse("--data.tumour", "a,a")


@pytest.mark.parametrize("phantom", [True, False])
def test_one_channel_in_two_parts_is_refused_unless_it_is_meant(tmp_path, mistake, phantom):
    for name in ("mine.ome.zarr", "spots.tif"):
        (tmp_path / name).touch()
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"volumes": [ENTRY]}))
    flags = ["--data.anatomy", "tumour", "--data.tumour", "tumour"]
    flags += [] if phantom else ["--data.path", str(tmp_path)]
    with mistake("data.tumour: 'tumour'", "data.anatomy", "data.one_channel"):
        resolved(parse(*flags).recipe)
    resolved(parse(*flags, "--data.one_channel", "true").recipe)


def test_the_flags_of_a_command_on_another_preset():
    asked = parse_command(
        "job.py", "A job.", ["--recipe", "stroke-small", "--method.width", "0.5"], several_methods=True
    )
    masks = asked.on("stroke-masks-small")
    assert (masks.recipe_name, masks.recipe.method.name, masks.recipe.method.width) == (
        *("stroke-masks-small", "lesion_wgan"),
        0.5,
    )
    assert masks.recipe.training.epochs == 50
    other = asked.on("stroke-masks-small", {"training": {"epochs": 3}})
    assert (other.recipe.method.width, other.recipe.training.epochs, other.given) == (
        0.25,
        3,
        {"training": {"epochs": 3}},
    )
    assert other.varied({"method": {"name": "lesion_wgan", "penalty": 5}}).method.penalty == 5
    with pytest.raises(UserError, match="no such preset or file"):
        asked.on("stroke-mask")


def test_a_label_that_is_empty_is_none_whoever_says_so():
    """Or a run that was started with it on the command line could not be continued."""
    said = parse_command("job.py", "A job.", ["--data.label", ""]).recipe
    assert said.data.label is None
    assert stored_recipe(said.model_dump(mode="json")).data.label is None
