"""The space of a search: what may be varied, by how much, and what a point makes of a recipe."""

import pytest
from pydantic import ValidationError

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe, Tuning
from metgan_dist.recipe.tuning import Range
from metgan_dist.tuning.space import applied, clamped, described, digest, point_of, search_space, shown


def recipe(space=None, **sections):
    return Recipe.model_validate({**sections, "tuning": {"space": space or {}}})


def test_metgans_weights_vary_a_decade_around_the_papers():
    space = search_space(recipe())
    assert {field: (values.low, values.high, values.log) for field, values in space.items()} == {
        "method.alpha1": (0.1, 10, True),
        "method.alpha2": (1, 100, True),
        "method.alpha3": (10, 1000, True),
        "method.alpha4": (1, 100, True),
    }


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("pix2pix", {"method.alpha1", "method.alpha4"}),
        ("cyclegan", {"method.alpha1", "method.alpha2", "method.identity"}),
        ("metgan_minus", {"method.alpha1", "method.alpha2", "method.alpha3"}),
        ("sifa", {"method.alpha1", "method.alpha2"}),
        ("spade_vae", {"method.feature_matching", "method.perceptual", "method.kl"}),
        ("redgan", {"method.feature_matching"}),
        ("cycle_shape", {"method.alpha1", "method.alpha2", "method.shape"}),
    ],
)
def test_other_methods_vary_the_weights_that_they_have(method, fields):
    assert set(search_space(recipe(method={"name": method}))) == fields


def test_pix2pix_varies_around_its_own_papers_weight():
    values = search_space(recipe(method={"name": "pix2pix"}))["method.alpha4"]
    assert (values.low, values.high) == (10, 1000)


@pytest.mark.parametrize(
    ("space", "line"),
    [
        (
            {"method.alhpa1": {"low": 1, "high": 2}},
            "no such field in a recipe; did you mean method.alpha1?",
        ),
        ({"alpha1": {"low": 1, "high": 2}}, "did you mean method.alpha1"),
        ({"method.name": ["metgan", "pix2pix"]}, "run_study.py compares them"),
        ({"tiles.depth": [8, 16]}, "tiles.depth: is made once for all trials"),
        ({"method.segmentor_width": {"low": 0.1, "high": 1}}, "is made once for all trials"),
        ({"training.max_steps": [10, 20]}, "is the same for all trials"),
        ({"storage.path": ["a", "b"]}, "is the same for all trials, or does not change a training"),
        (
            {"method.kl": {"low": 0.01, "high": 1}},
            "method.kl: metgan has no such field (spade_vae, sean_vae have it); its nearest is method.pool",
        ),
        ({"method.alpha1": {"low": 2, "high": 5}}, "own value 1, which the first trial has, lies outside 2 to 5"),
        ({"method.backbone": {"low": 1, "high": 2}}, "'metgen' is no number; list its values"),
        ({"method.backbone": ["unet-256", "resnet-9"]}, "the recipe's own 'metgen' among them"),
        ({"method.backbone": ["metgen", "resnet-8"]}, "method.backbone: 'resnet-8'"),
        ({"method.width": {"low": 0.1, "high": 9}}, "method.width: 9.0: input should be less than or equal to 4"),
    ],
)
def test_a_space_that_cannot_be_searched_is_one_line(space, line):
    with pytest.raises(UserError, match=r"tuning\.space") as refused:
        search_space(recipe(space))
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"low": 5, "high": 1}, "low must be below high, not 5 to 1"),
        ({"low": 0, "high": 1}, "a logarithmic range starts above 0, not at 0"),
        ({"low": -1, "high": 1, "log": True}, "not at -1"),
    ],
)
def test_reversed_and_impossible_bounds_are_refused(values, line):
    with pytest.raises(ValidationError, match=line) as refused:
        Tuning(space={"method.alpha1": values})
    assert refused.value.error_count() == 1  # not also that it is no list


def test_a_linear_range_may_start_at_zero():
    assert search_space(recipe({"method.identity": {"low": 0, "high": 10, "log": False}}))


def test_a_point_becomes_a_recipe_and_leaves_the_rest():
    base = recipe({"method.alpha1": {"low": 0.1, "high": 10}, "method.pool": {"low": 1, "high": 80}})
    made = applied(base, {"method.alpha1": 2.5, "method.pool": 3.7})
    assert (made.method.alpha1, made.method.pool) == (2.5, 4)
    assert made.method.alpha2 == base.method.alpha2
    assert applied(base, point_of(base, base.tuning.space)) == base


def test_a_digest_tells_points_apart_and_not_their_order():
    assert digest({"a": 1, "b": 2.5}) == digest({"b": 2.5, "a": 1})
    assert len({digest({"a": 1}), digest({"a": 2}), digest({"a": 1}, "from elsewhere")}) == 3


def test_perturbed_points_stay_in_their_ranges():
    space = {"method.alpha1": Range(low=0.1, high=10), "method.backbone": ["metgen", "resnet-9"]}
    assert clamped(space, {"method.alpha1": 12.0, "method.backbone": "metgen"}) == {
        "method.alpha1": 10,
        "method.backbone": "metgen",
    }


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"scheduler": "pbt"}, "goes with search random, not optuna"),
        ({"search": "pareto"}, "use scheduler none"),
        ({"objectives": ["mae", "ssim"]}, "one for the others"),
        ({"search": "pareto", "scheduler": "none", "objectives": ["mae"]}, "two scores for search pareto"),
    ],
)
def test_searches_that_a_scheduler_cannot_go_with_are_refused(fields, line):
    with pytest.raises(ValidationError, match=line):
        Tuning(**fields)


def test_a_space_is_described_in_a_line():
    space = {
        "method.alpha1": {"low": 0.1, "high": 10},
        "method.identity": {"low": 0, "high": 5, "log": False},
        "method.backbone": ["metgen", "resnet-9"],
    }
    line = "method.alpha1 from 0.1 to 10; method.identity from 0 to 5 (not log); method.backbone of metgen, resnet-9"
    assert described(search_space(recipe(space))) == line


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.5, "1234"),
        (1e30, "1e+30"),
        (161.23, "161"),
        (0.70357, "0.704"),
        (1.0, "1"),
        (7, "7"),
        ("metgen", "metgen"),
    ],
)
def test_values_are_short(value, text):
    assert shown(value) == text
