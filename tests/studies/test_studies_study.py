"""Studies are the papers' tables: their rows build, their numbers are the printed ones, and the user's flags win."""

from functools import cache

import pytest
import yaml

from metgan_dist.errors import UserError
from metgan_dist.methods.rows import ROWS
from metgan_dist.recipe import recipe_names
from metgan_dist.runs.command_line import JobFlag, parse_command
from metgan_dist.scores.column import COLUMNS
from metgan_dist.studies.study import asked_study, load_study, study_names

STUDY_FLAG, ROWS_FLAG = (JobFlag(name, "X", "a flag of run_study.py") for name in ("study", "rows"))


@cache
def command(*arguments):
    return parse_command("run_study.py", "Studies.", arguments)


@pytest.mark.parametrize("name", study_names())
@pytest.mark.parametrize("recipe", recipe_names())
def test_every_row_of_every_study_is_a_recipe_on_every_preset(name, recipe):
    study = load_study(name)
    recipes = study.recipes(command("--recipe", recipe))
    assert list(recipes) == [row.name for row in study.rows]


def test_the_studies_of_methods_have_the_papers_rows():
    assert study_names() == [
        *("ablation", "cardiac-segmentation", "cardiac-synthesis", "cross-modal", "downstream", "image-synthesis"),
        *("nerves", "robustness", "stroke"),
    ]
    methods = {
        name: [recipe.method.name for recipe in load_study(name).recipes(command()).values()] for name in study_names()
    }
    assert methods["ablation"] == list(ROWS)
    assert methods["image-synthesis"] == [
        *("pix2pix", "cyclegan", "redgan", "spade", "spade_vae", "sean_vae", "sifa", "metgan"),
    ]
    assert methods["nerves"] == ["pix2pix", "cyclegan", "metgen_cond", "metgen_cycle"]
    assert methods["robustness"] == [name for name in ("pix2pix", "cyclegan", "metgan") for _ in range(2)]


def test_the_nerves_study_has_table_3_with_the_supplements_cross_correlation():
    study = load_study("nerves")
    assert study.scores == ("mae", "msd", "ssim", "correlation", "label_fidelity")
    printed = {row.name: study.paper(row)["correlation"] for row in study.rows}
    assert printed == {"pix2pix": 0.85, "cyclegan": 0.851, "metgen_cond": 0.848, "metgen_cycle": 0.872}
    assert COLUMNS["correlation"].title == "Cross-correlation"


def test_the_downstream_study_has_table_4():
    study = load_study("downstream")
    recipes = study.recipes(command("--segmentation.datasets", "a,b"))
    amounts = [(recipe.segmentation.real, recipe.segmentation.synthetic) for recipe in recipes.values()]
    synthetic = [(0, count) for count in (100, 120, 240, 480, 1000, 1800)]
    real = [(part, 0) for part in (0.25, 0.35, 0.5, 1)]
    assert amounts == [*synthetic, *real, (0.25, 500), (0.5, 500), (1, 500), (1, 1500)]
    assert all(recipe.segmentation.datasets == ("a", "b") for recipe in recipes.values())
    for row in study.rows:
        printed = study.paper(row)
        # The paper prints means over folds, in which the identities hold nearly.
        assert printed["jaccard"] == pytest.approx(printed["dice"] / (2 - printed["dice"]), abs=0.007)
    best = max(study.rows, key=lambda row: study.paper(row)["dice"])
    assert study.paper(best) == {"dice": 0.826, "precision": 0.842, "recall": 0.811, "jaccard": 0.704}
    assert best.ticks == {"Paper's row": "810R+500S"}


def test_some_rows_of_a_study_are_a_study():
    study = load_study("robustness").restricted(["metgan_shuffled", "pix2pix_shuffled", "pix2pix"])
    assert [row.name for row in study.rows] == ["pix2pix", "pix2pix_shuffled", "metgan_shuffled"]
    assert study.reference == "pix2pix"
    assert [row.against for row in study.rows] == [None, "pix2pix", None]
    assert load_study("downstream").restricted(["s100", "r100"]).reference == "r100"
    with pytest.raises(UserError, match="--rows: no row is called 's200'; there are s100, "):
        load_study("downstream").restricted(["s100", "s200"])


def test_study_and_rows_are_taken_from_the_flags():
    def asked(*arguments):
        return asked_study(parse_command("run_study.py", "Studies.", arguments, [STUDY_FLAG, ROWS_FLAG]))

    name, study = asked("--study", "downstream", "--rows", "r25,s100", "--rows", "r100")
    assert (name, [row.name for row in study.rows]) == ("downstream", ["s100", "r25", "r100"])
    assert len(asked("--study", "downstream")[1].rows) == 14
    for arguments, culprit in (((), "none given"), (("--study", "nerves,ablation"), "more than one given")):
        with pytest.raises(UserError, match=f"--study: {culprit}"):
            asked(*arguments)


@pytest.mark.parametrize("name", ["ablation", "nerves"])
def test_ticks_are_what_the_methods_do(name):
    study = load_study(name)
    for row, recipe in zip(study.rows, study.recipes(command()).values(), strict=True):
        does = ROWS[recipe.method.name]
        generator = {"metgen": "MetGen", "unet-256": "U-Net"}[recipe.method.backbone]
        ticks = {"Generator": generator, "Segmentor": does.segmentor, "Pair loss": does.pair, "Cycle": does.cycle}
        assert row.ticks == ticks


def test_baselines_keep_their_papers_weights_on_a_preset_made_for_metgan():
    recipes = load_study("ablation").recipes(command("--recipe", "cells"))
    cyclegan, metgan = recipes["cyclegan"].method, recipes["metgan"].method
    assert (cyclegan.alpha1, cyclegan.alpha2, cyclegan.identity) == (1, 10, 5)
    assert (recipes["pix2pix"].method.alpha1, recipes["pix2pix"].method.alpha4) == (1, 100)
    assert (metgan.alpha1, metgan.alpha2, metgan.width) == (0.2, 2, 0.25)


def test_command_line_wins_over_rows_and_rows_over_the_preset(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "{title: T, reference: a, scores: [mae], rows: [{name: a, label: A, "
        "recipe: {method: {name: pix2pix, alpha4: 7}, training: {epochs: 3}}}]}"
    )
    study = load_study(str(path))
    recipe = study.recipes(command("--recipe", "cells", "--method.alpha4", "8", "--training.batch_size", "2"))["a"]
    assert (recipe.method.alpha4, recipe.training.epochs, recipe.training.batch_size) == (8, 3, 2)
    assert recipe.tiles.size == (128,)
    assert recipe.method.adversarial == "log"  # what is set nowhere is the method's own


def test_what_all_rows_set_is_for_those_whose_methods_have_it(tmp_path):
    path = tmp_path / "mine.yaml"
    rows = [{**ROW, "recipe": {"method": {"name": "spade"}}}, {**ROW, "name": "b", "label": "B"}]
    common = {"method": {"label_norm": "pixel", "width": 0.5}, "training": {"epochs": 3}}
    path.write_text(yaml.safe_dump({**STUDY, "recipe": common, "rows": rows}))
    recipes = load_study(str(path)).recipes(command())
    assert [(recipe.method.width, recipe.training.epochs) for recipe in recipes.values()] == [(0.5, 3)] * 2
    assert recipes["b"].method.label_norm == "pixel"
    assert not hasattr(recipes["a"].method, "label_norm")
    # A flag that names the method of every row is not theirs to be held against.
    named = load_study(str(path)).recipes(command("--method.name", "spade"))
    assert [recipe.method.name for recipe in named.values()] == ["spade"] * 2


def test_robustness_differs_in_the_labels_alone():
    study = load_study("robustness")
    recipes = study.recipes(command())
    for row in study.rows:
        if row.against:
            clean = recipes[row.against]
            assert recipes[row.name].data.shuffled_labels == 0.25
            assert recipes[row.name].model_copy(update={"data": clean.data}) == clean


def test_paper_numbers_are_brought_to_our_scale():
    study = load_study("image-synthesis")
    assert study.paper(study.row("metgan")) == {"mae": 0.111, "msd": 0.023, "ssim": 0.7, "fid": 79.45, "lpips": 0.214}


ROW = {"name": "a", "label": "A", "recipe": {}}
STUDY = {"title": "T", "reference": "a", "scores": ["mae"], "rows": [ROW]}


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"rows": [ROW, ROW]}, "two rows are called 'a'"),
        ({"reference": "b"}, "no row is called 'b'"),
        ({"rows": [{**ROW, "against": "c"}]}, "no row is called 'c'"),
        ({"rows": [{**ROW, "name": "a b"}]}, "letters, digits"),
        ({"rows": []}, "rows"),
        ({"scores": ["mea"]}, "scores"),
        ({"scores": ["recall"]}, "recall is no score of train_metgan"),
        ({"job": "segment_folds"}, "mae is no score of segment_folds"),
        ({"job": "make_tiles"}, "job"),
        ({"colour": "red"}, "colour"),
        (
            {"recipe": {"method": {"kl": 1}}, "rows": [{**ROW, "recipe": {"method": {"name": "sifa"}}}]},
            "no row has a method with method.kl",
        ),
    ],
)
def test_a_study_that_cannot_be_is_refused_in_one_line(tmp_path, changes, culprit):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}))
    with pytest.raises(UserError) as refusal:
        load_study(str(path))
    assert culprit in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_mistakes_in_a_row_name_the_row(tmp_path):
    path = tmp_path / "study.yaml"
    for recipe, culprit in (
        ({"method": {"alpha9": 1}}, "method.alpha9"),
        ({"method": {"name": "pix3pix"}}, "did you mean pix2pix"),
        ({"method": {"name": "sifa", "alpha4": 1}}, r"method\.alpha4: sifa has no such field"),
    ):
        path.write_text(yaml.safe_dump({**STUDY, "rows": [{**ROW, "recipe": recipe}]}))
        with pytest.raises(UserError, match=f"row a: .*{culprit}"):
            load_study(str(path)).recipes(command())


def test_unknown_study_and_unreadable_file(tmp_path):
    with pytest.raises(UserError, match="--study ablution: no such study or file; studies: ablation"):
        load_study("ablution")
    path = tmp_path / "study.yaml"
    path.write_text("{")
    with pytest.raises(UserError, match="not readable as YAML"):
        load_study(str(path))
