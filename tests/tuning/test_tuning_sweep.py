"""What a sweep decides before it trains anything: its objectives, and the length of its trials."""

import os

import pytest
import ray
import torch
from two_domains import recipe_of, write_two_domains

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.runs.command_line import Command
from metgan_dist.tuning.space import search_space
from metgan_dist.tuning.sweep import PlannedSweep, _trial_recipe, objectives_of


def recipe(method="metgan", training=None, **tuning):
    return Recipe.model_validate({"method": {"name": method}, "training": training or {}, "tuning": tuning})


@pytest.mark.parametrize(
    ("method", "tuning", "objectives"),
    [
        ("metgan", {}, [("mae", "min")]),
        ("cyclegan", {}, [("cycle_mae", "min")]),
        ("spade", {}, [("label_fidelity", "max")]),
        ("metgan", {"search": "pareto", "scheduler": "none"}, [("mae", "min"), ("label_fidelity", "max")]),
        ("spade", {"search": "pareto", "scheduler": "none"}, [("mae", "min"), ("label_fidelity", "max")]),
        ("metgan", {"objectives": ["ssim"]}, [("ssim", "max")]),
    ],
)
def test_a_sweep_improves_what_its_method_is_validated_by(method, tuning, objectives):
    assert [(one.name, one.mode) for one in objectives_of(recipe(method, **tuning))] == objectives


def test_a_plan_says_what_is_searched_and_how(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    made = Recipe.model_validate({"scaling": {"workers": 1, "cluster": "local"}, "method": {"name": "pix2pix"}})
    lines = str(PlannedSweep.planned(Command(made, "quickstart", True, False))).splitlines()
    assert lines[:2] == [
        "search: method.alpha1 from 0.1 to 10; method.alpha4 from 10 to 1000",
        "objective: validation mae (min)",
    ]
    assert lines[2].startswith("trials at once: 2, each of 1 worker(s) x 0.5 CPU")


@pytest.mark.parametrize(
    ("method", "tuning", "line"),
    [
        ("pix2pix", {"objectives": ["cycle_mae"]}, "pix2pix has no cycle"),
        ("segmentor", {}, "segmentor makes no images"),
    ],
)
def test_scores_that_a_method_does_not_have_are_refused(method, tuning, line):
    with pytest.raises(UserError, match=line):
        objectives_of(recipe(method, **tuning))


@pytest.mark.parametrize(
    ("training", "tuning", "total", "every"),
    [
        ({"batch_size": 4, "epochs": 2}, {"reports": 10}, 200, 20),
        ({"batch_size": 4, "epochs": 2}, {"reports": 9, "images": 80}, 80, 9),
        ({"batch_size": 4, "epochs": 2}, {"images": 10_000}, 200, 23),
        ({"batch_size": 4, "max_steps": 5}, {"images": 80}, 20, 3),
        ({"batch_size": 4, "accumulate": 2}, {"images": 3}, 8, 1),
    ],
)
def test_a_trial_is_as_long_as_asked_and_never_longer_than_the_recipe(training, tuning, total, every):
    made, length, between = _trial_recipe(recipe(training=training, **tuning), tiles=100)
    assert (length.total, between) == (total, every)
    assert made.training.validate_every == made.training.checkpoint_every == every
    assert total / every <= made.tuning.reports


@pytest.mark.parametrize(
    ("space", "needed"),
    [
        ({"method.alpha1": {"low": 0.1, "high": 10}}, False),
        ({"method.alpha3": [0.0, 100.0]}, True),
        ({"method.alpha3": {"low": 0, "high": 100, "log": False}}, True),
    ],
)
def test_a_segmentor_is_trained_where_any_trial_needs_it(space, needed):
    made = Recipe.model_validate({"method": {"alpha3": 0.0}, "tuning": {"space": space}})
    assert PlannedSweep(made.tuning.space, ())._needs_segmentor(made) is needed


@pytest.mark.parametrize(
    ("name", "tuning", "said"),
    [
        ("cyclegan", {"objectives": ["mae"]}, "tuning.objectives: mae compares with the real image of the same place"),
        ("metgan", {"space": {"method.alpha4": [0.0, 10.0]}, "objectives": ["cycle_mae"]}, "method.name: metgan"),
        ("cyclegan", {"objectives": ["label_fidelity"]}, "data.label: the domain 'ct' has no label to train on"),
        ("cyclegan", {"objectives": ["cycle_mae"]}, None),
    ],
)
def test_a_sweep_on_two_domains_is_refused_what_needs_pairs_or_labels(tmp_path, mistake, name, tuning, said):
    folder = write_two_domains(tmp_path, {"ct": 1, "mr": 1}, shape=(1, 128, 128), labelled=["mr"])
    method = {"name": name, **({"alpha3": 0.0, "alpha4": 0.0} if name == "metgan" else {})}
    made = recipe_of(folder, tiles={"size": 128}, method=method, tuning=tuning)
    planned = PlannedSweep(search_space(made), objectives_of(made))
    if said is None:
        planned.check(made)
        return
    with mistake(said):
        planned.check(made)
