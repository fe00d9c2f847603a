"""Which checkpoint is kept: the last or the best by a score, and never one for the error of its cycle alone."""

import pytest

from metgan_dist.recipe import Recipe, recipe_tree
from metgan_dist.runs.command_line import parse_command
from metgan_dist.studies.study import load_study
from metgan_dist.training.choice import Choice
from metgan_dist.training.snapshot import Snapshot

IDENTITY = {"mae": 0.3, "cycle_mae": 0.0, "label_fidelity": 0.1, "label_fidelity_of_real": 0.12}
GOOD = {"mae": 0.1, "cycle_mae": 0.05, "label_fidelity": 0.8, "label_fidelity_of_real": 0.95}
BETTER = {"mae": 0.05, "cycle_mae": 0.02, "label_fidelity": 0.6, "label_fidelity_of_real": 0.7}


def recipe(name="metgan", **training):
    return Recipe.model_validate({"method": {"name": name}, "training": training})


@pytest.mark.parametrize(
    ("name", "keep", "expected"),
    [
        ("metgan", None, Choice("mae", "min")),
        ("spade", None, Choice("label_fidelity", "max")),
        ("segmentor", None, Choice("dice", "max")),
        ("cyclegan", None, Choice("cycle_mae", "min", last=True)),
        ("sifa", None, Choice("cycle_mae", "min", last=True)),
        ("metgan", "last", Choice("mae", "min", last=True)),
        ("cyclegan", "ssim", Choice("ssim", "max")),
        ("lesion_wgan", None, Choice("mask_distance", "min")),
        ("lesion_wgan", "last", Choice("mask_distance", "min", last=True)),
        ("singan", None, Choice("reconstruction_rmse", "min", last=True)),
    ],
)
def test_a_methods_own_choice_and_the_recipes(name, keep, expected):
    assert Choice.of(recipe(name, keep=keep)) == expected


@pytest.mark.parametrize(
    ("training", "kept"),
    [
        ({"keep": "last"}, "identity again"),
        ({"keep": "mae"}, "better"),
        ({"keep": "label_fidelity"}, "good"),
        ({"keep": "mae", "keep_floor": 0.9}, "good"),
        ({"keep": "mae", "keep_floor": 0.7}, "better"),
        ({"keep": "cycle_mae", "keep_floor": 0.8}, "good"),
        ({"keep": "mae", "keep_floor": 1}, "identity again"),
        ({"name": "cyclegan"}, "identity again"),
    ],
)
def test_of_these_checkpoints_this_one_is_kept(training, kept):
    choice, snapshot = Choice.of(recipe(**training)), Snapshot()
    checkpoints = {"identity": IDENTITY, "better": BETTER, "good": GOOD, "identity again": IDENTITY}
    for number, (name, scores) in enumerate(checkpoints.items(), start=1):
        score = choice.score(scores)
        metrics = {"score": number if choice.last else choice.worst if score is None else score}
        snapshot = snapshot.with_report(name, metrics, choice.ranked, 1)
    assert max(snapshot.kept, key=lambda one: one.metrics["score"] * (1 if choice.ranked == "max" else -1)).name == kept


@pytest.mark.parametrize(
    ("training", "line"),
    [
        ({"keep": "cycle_mae"}, "training.keep: cycle_mae alone would choose a generator that copies its input"),
        ({"keep": "cycle_mae", "name": "spade"}, "training.keep: spade has no cycle; use last, mae or label_fidelity"),
        ({"keep": "last", "keep_floor": 0.5}, "training.keep_floor: the last checkpoint is kept whatever it scores"),
        ({"keep_floor": 0.5, "name": "cyclegan"}, "training.keep_floor: the last checkpoint is kept"),
        (
            {"keep": "mae", "name": "lesion_wgan"},
            "training.keep: mae is no score of lesion_wgan; use last or mask_dist",
        ),
        ({"keep": "mask_distance"}, "training.keep: mask_distance is no score of metgan; use last or mae"),
        ({"keep": "mae", "name": "singan"}, "training.keep: mae may choose a checkpoint of an early stage"),
        ({"keep_floor": 0.5, "name": "lesion_wgan"}, "training.keep_floor: drawn masks have no label fidelity"),
        (
            {"keep": "last", "patience": 2},
            "training.patience: with the last checkpoint kept no score says when to stop",
        ),
    ],
)
def test_what_does_not_fit_together_is_one_line(training, line, mistake):
    with mistake(line):
        Choice.of(recipe(**training))


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--training.keep", "best"], "training.keep: 'best': input should be 'last', 'mae', 'msd', 'ssim'"),
        (["--training.keep_floor", "1.5"], "training.keep_floor: '1.5': input should be less than or equal to 1"),
        (["--training.keep_floor", "0"], "training.keep_floor: '0': input should be greater than 0"),
    ],
)
def test_an_unknown_score_is_one_line_with_those_that_there_are(flags, line, mistake):
    with mistake(line):
        parse_command("job.py", "A job.", flags)


def test_recipes_and_studies_of_the_papers_keep_the_last_checkpoint():
    for name in ("metastases", "nerves"):
        assert Choice.of(Recipe.model_validate(recipe_tree(name))).last
    for name in ("image-synthesis", "ablation", "nerves", "robustness"):
        command = parse_command("job.py", "A job.", ["--recipe", "cells"])
        assert all(Choice.of(row).last for row in load_study(name).recipes(command).values())
    chosen = parse_command("job.py", "A job.", ["--recipe", "cells", "--training.keep", "mae"])
    assert all(Choice.of(row).shown == "mae" for row in load_study("robustness").recipes(chosen).values())
