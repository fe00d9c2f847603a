"""How many rows train at once, and what changes between two of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from metgan_dist.cluster.resources import plan_resources
from metgan_dist.errors import UserError
from metgan_dist.evaluation.comparison import compare
from metgan_dist.evaluation.scoring import REAL
from metgan_dist.recipe import Scaling, Scores
from metgan_dist.runs.child_runs import trainings_at_once
from metgan_dist.runs.command_line import JobFlag, parse_command
from metgan_dist.scores.scored import Scored
from metgan_dist.studies.runner import differences, planned_study
from metgan_dist.tiles.independence import Units


@pytest.mark.parametrize(
    ("scaling", "cpus", "gpus", "at_once"),
    [
        ({}, 2, 0, 1),
        ({}, 16, 0, 1),
        ({"cpus_per_worker": 3}, 16, 0, 4),
        ({}, 16, 1, 1),
        ({}, 16, 4, 4),
        ({"gpus_per_worker": 0.25}, 16, 1, 4),
        ({"gpus_per_worker": 0.333}, 16, 1, 3),
        ({"gpus_per_worker": 0.1}, 4, 1, 3),
        ({"workers": 2, "gpus_per_worker": 1}, 16, 4, 2),
        ({"trainings": 7}, 2, 0, 7),
    ],
)
def test_trainings_at_once_fit_the_cluster_with_their_tiles(scaling, cpus, gpus, at_once):
    settings = Scaling.model_validate(scaling)
    assert trainings_at_once(plan_resources(settings, cpus, gpus), settings) == at_once


def test_differences_are_those_of_the_pairs_that_were_scored():
    tiles, random = np.arange(20), np.random.default_rng(0)
    base = random.random(20)
    shifts = {"clean": 0.0, "shuffled": 0.25}
    scored = {
        name: Scored(
            pd.DataFrame({"tile": tiles, "mae": base + shift + random.normal(0, 0.01, 20)}), {"fid": shift}, {}
        )
        for name, shift in shifts.items()
    }
    real = {REAL: Scored(pd.DataFrame({"tile": tiles}), {}, {})}
    settings = Scores(names=("mae", "fid"), resamples=100)
    names = [f"v{tile}" for tile in tiles]
    units = Units(pd.DataFrame({"volume": names, "unit": names, "alone": True}), "volumes")
    comparison = compare({**real, **scored}, units, "clean", settings)
    (text,) = differences(comparison, {"shuffled": "clean", "failed": "clean"}, settings)
    (line,) = text.splitlines()[2:]
    first, mae, fid = (cell.strip() for cell in line.strip("|\n ").split("|"))
    assert first == "shuffled - clean"
    assert mae.endswith(r"\*")
    assert float(mae.removesuffix(r"\*")) == pytest.approx(0.25, abs=0.02)
    assert float(fid) == pytest.approx(0.2, abs=0.11)
    assert differences(comparison, {"failed": "clean"}, settings) == []
    alone = units.table.assign(unit=["v"] * 10 + ["w"] * 10)
    (text,) = differences(
        compare({**real, **scored}, Units(alone, "volumes"), "clean", settings), {"shuffled": "clean"}, settings
    )
    assert "*" not in text


def command(*arguments):
    own = [JobFlag(name, "X", "") for name in ("study", "rows")]
    return parse_command("run_study.py", "Studies.", arguments, own, several_methods=True)


def test_a_dry_run_shows_what_rows_have_of_their_own(capsys):
    asked = ("--study", "image-synthesis", "--recipe", "cells", "--scores.missing_weights", "skip")
    planned_study(command(*asked, "--rows", "pix2pix,metgan,sifa", "--dry-run"), Path("jobs"))
    rows = yaml.safe_load(capsys.readouterr().out)["rows"]
    paper = {"method": {"label_norm": "batch"}, "training": {"keep": "last"}}  # of all rows, and not of `cells`
    shown = {"scores": {"splits": ["test"]}}
    assert rows["metgan"] == {**paper, **shown}
    assert rows["pix2pix"] == {
        **shown,
        "method": {
            **{"name": "pix2pix", "alpha1": 1, "alpha4": 100},
            **{"backbone": "unet-256", "adversarial": "log", "pool": 0, **paper["method"]},
        },
        "training": {"batch_size": 1, "learning_rate": 2e-4, **paper["training"]},
    }
    assert rows["sifa"]["training"] == {"batch_size": 8, "learning_rate": 2e-4, **paper["training"]}


def test_a_flag_that_some_rows_methods_have_is_theirs_and_which_it_does_not_concern_is_said(capsys):
    asked = ("--study", "image-synthesis", "--recipe", "cells", "--scores.missing_weights", "skip")
    flags = ("--method.perceptual", "0", "--method.alpha2", "3", "--method.width", "0.125")
    planned = planned_study(command(*asked, *flags), Path("jobs"))
    said = capsys.readouterr().out.splitlines()
    assert sorted(said) == [
        "method.alpha2: not for pix2pix, redgan, spade, spade_vae, sean_vae, whose methods have no such field",
        "method.perceptual: not for pix2pix, cyclegan, sifa, metgan, whose methods have no such field",
    ]
    methods = {name: recipe.method for name, recipe in planned.recipes.items()}
    assert {name: one.perceptual for name, one in methods.items() if hasattr(one, "perceptual")} == (
        dict.fromkeys(("redgan", "spade", "spade_vae", "sean_vae"), 0)
    )
    assert (methods["cyclegan"].alpha2, methods["metgan"].alpha2, methods["sifa"].alpha2) == (3, 3, 3)
    assert {one.width for one in methods.values()} == {0.125}
    # The recipe of the study's own tiles, segmentor and judge is of one method, as any.
    assert not hasattr(command(*asked, *flags).recipe.method, "perceptual")


def test_rows_are_scored_on_the_test_tiles_that_the_table_shows_unless_a_flag_says_more():
    asked = ("--study", "ablation", "--recipe", "cells", "--scores.missing_weights", "skip")
    for flags, splits in (((), ("test",)), (("--scores.splits", "test,unseen"), ("test", "unseen"))):
        recipes = planned_study(command(*asked, *flags), Path("jobs")).recipes
        assert {recipe.scores.splits for recipe in recipes.values()} == {splits}


def test_a_flag_that_no_rows_method_has_is_refused():
    asked = ("--study", "ablation", "--scores.missing_weights", "skip", "--method.perceptual", "0")
    with pytest.raises(UserError, match=r"^method\.perceptual: no row of the study has it: pix2pix has no such field"):
        planned_study(command(*asked), Path("jobs"))


def test_a_row_that_its_own_job_would_refuse_is_refused_before_any_work():
    asked = ("--study", "nerves", "--recipe", "cells", "--scores.missing_weights", "skip", "--tiles.size")
    with pytest.raises(UserError, match=r"row pix2pix: tiles\.size: tiles of 48 pixels do not fit pix2pix") as refusal:
        planned_study(command(*asked, "48"), Path("jobs"))
    assert "\n" not in str(refusal.value)
    planned_study(command(*asked, "64"), Path("jobs"))


def test_a_segmentor_is_given_to_the_rows_that_are_trained_with_one_and_a_line_says_to_which_not(capsys, mistake):
    asked = ("--study", "image-synthesis", "--recipe", "cells", "--scores.missing_weights", "skip")
    given = ("--method.segmentor", "/runs/own")
    planned = planned_study(command(*asked, *given, "--rows", "pix2pix,metgan"), Path("jobs"))
    assert {name: recipe.method.segmentor for name, recipe in planned.recipes.items()} == {
        "pix2pix": None,
        "metgan": "/runs/own",
    }
    assert "method.segmentor: not for pix2pix, whose methods are trained without a segmentor" in capsys.readouterr().out
    with mistake("--study: row pix2pix: method.segmentor: pix2pix is trained without a segmentor; leave it out"):
        planned_study(command(*asked, *given, "--rows", "pix2pix"), Path("jobs"))
