"""A run's name belongs to one recipe, one job and one MLflow run."""

import json
from dataclasses import replace

import pytest

from metgan_dist.errors import UserError
from metgan_dist.recipe import Data, Recipe, Scaling, Storage, Tracking, Training
from metgan_dist.recipe.methods.metgan import MetGANRecipe
from metgan_dist.runs.run_folder import open_run, record


def recipe(folder, name="mine", **more):
    return Recipe(tracking=Tracking(run=name), storage=Storage(path=str(folder)), **more)


def test_second_start_finds_the_mlflow_run_of_the_first(tmp_path):
    first = open_run("train_metgan", recipe(tmp_path), "quickstart")
    assert not first.continued
    record(first, recipe(tmp_path), "abc")
    second = open_run("train_metgan", recipe(tmp_path), "quickstart")
    assert second.continued
    assert second.mlflow_run_id == "abc"
    assert second.folder == first.folder == str(tmp_path / "mine")


def test_other_scaling_is_the_same_experiment(tmp_path):
    open_run("train_metgan", recipe(tmp_path), "quickstart")
    assert open_run("train_metgan", recipe(tmp_path, scaling=Scaling(workers=7)), "quickstart").continued


@pytest.mark.parametrize(
    ("job", "more", "culprit"),
    [
        ("train_metgan", {"method": MetGANRecipe(alpha1=2)}, r"method\.alpha1 was 1\.0, is 2\.0"),
        ("make_tiles", {}, "is a run of train_metgan"),
    ],
)
def test_a_name_in_use_is_not_taken_over(tmp_path, job, more, culprit):
    open_run("train_metgan", recipe(tmp_path), "quickstart")
    with pytest.raises(UserError, match=culprit):
        open_run(job, recipe(tmp_path, **more), "quickstart")


LENGTH = {"epochs": 4, "max_steps": 10, "patience": 2}


@pytest.mark.parametrize("more", [{"epochs": 5}, {"max_steps": None, "epochs": 9}, {"patience": 3}, {"patience": None}])
def test_a_run_may_be_given_more(tmp_path, more):
    open_run("train_metgan", recipe(tmp_path, training=Training(**LENGTH)), "quickstart")
    longer = recipe(tmp_path, training=Training(**{**LENGTH, **more}))
    again = open_run("train_metgan", longer, "quickstart")
    assert again.continued
    assert again.raised == tuple(
        f"training.{name} was {LENGTH[name]}, is {more[name]}" for name in LENGTH if name in more
    )
    record(again, longer, "a")
    assert open_run("train_metgan", longer, "quickstart").raised == ()


@pytest.mark.parametrize(
    ("method", "stages", "count"),
    [
        ({"name": "cycle_shape"}, {}, False),
        ({"name": "cycle_shape", "from_scratch": True}, {}, True),
        ({"name": "metgan"}, {}, True),
    ],
)
def test_more_epochs_are_refused_where_every_stage_has_a_length_of_its_own(tmp_path, mistake, method, stages, count):
    settings = {
        "method": Recipe.model_validate({"method": method}).method,
        "training": Training(epochs=4, stages=stages),
    }
    open_run("train_metgan", recipe(tmp_path, **settings), "quickstart")
    longer = recipe(tmp_path, **settings | {"training": Training(epochs=5, stages=stages)})
    if count:
        assert open_run("train_metgan", longer, "quickstart").raised == ("training.epochs was 4, is 5",)
        return
    with mistake("training.epochs: was 4, is 5, but each stage of cycle_shape has a length of its own"):
        open_run("train_metgan", longer, "quickstart")


@pytest.mark.parametrize("less", [{"epochs": 3}, {"max_steps": 9}, {"patience": 1}])
def test_a_run_is_not_given_less(tmp_path, less):
    open_run("train_metgan", recipe(tmp_path, training=Training(**LENGTH)), "quickstart")
    with pytest.raises(UserError, match=r"training\.\w+ was \d+, is \d+, and can only be raised"):
        open_run("train_metgan", recipe(tmp_path, training=Training(**{**LENGTH, **less})), "quickstart")


def test_a_segmentor_is_given_more_by_its_own_fields(tmp_path):
    open_run("train_segmentor", recipe(tmp_path), "quickstart")
    longer = MetGANRecipe(segmentor_epochs=41)
    assert open_run("train_segmentor", recipe(tmp_path, method=longer), "quickstart").raised
    with pytest.raises(UserError, match=r"training\.epochs was 200, is 201\)"):
        open_run("train_segmentor", recipe(tmp_path, training=Training(epochs=201)), "quickstart")
    open_run("train_metgan", recipe(tmp_path, name="other"), "quickstart")
    with pytest.raises(UserError, match=r"method\.segmentor_epochs was 40, is 41\)"):
        open_run("train_metgan", recipe(tmp_path, name="other", method=longer), "quickstart")


def test_what_a_run_starts_from_stays_on_record(tmp_path):
    start = {"uri": "/there", "sha256": "00", "method": "metgan", "run": "b"}
    run = open_run("train_metgan", recipe(tmp_path), "quickstart")
    record(replace(run, start=start), recipe(tmp_path), "a")
    assert open_run("train_metgan", recipe(tmp_path), "quickstart").start == start


def test_what_stands_for_stages_of_a_run_stays_on_record(tmp_path):
    stages = {"pretrain": {"uri": "/there", "sha256": "00", "method": "metgan", "run": "b"}}
    run = open_run("train_metgan", recipe(tmp_path), "quickstart")
    record(replace(run, stages=stages), recipe(tmp_path), "a")
    assert open_run("train_metgan", recipe(tmp_path), "quickstart").stages == stages


def test_a_run_goes_on_under_a_version_that_has_more_fields(tmp_path):
    open_run("train_metgan", recipe(tmp_path), "quickstart")
    known = tmp_path / "mine" / "run.json"
    written = json.loads(known.read_text())
    del written["recipe"]["training"]["stages"], written["recipe"]["training"]["stages_from"]
    known.write_text(json.dumps(written))
    assert open_run("train_metgan", recipe(tmp_path), "quickstart").continued
    with pytest.raises(UserError, match=r"training\.stages\.joint was None, is 3"):
        open_run("train_metgan", recipe(tmp_path, training=Training(stages={"joint": 3})), "quickstart")


@pytest.mark.parametrize("name", ["../else", "a b", ""])
def test_a_name_stays_inside_the_storage(tmp_path, name):
    if not name:
        assert open_run("make_tiles", recipe(tmp_path, name=None), "quickstart").name.startswith("make_tiles-2")
        return
    with pytest.raises(UserError, match=r"^tracking\.run: "):
        open_run("make_tiles", recipe(tmp_path, name=name), "quickstart")


def test_storage_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=r"^storage\.path: .*file"):
        open_run("make_tiles", recipe(blocked), "quickstart")


def test_a_run_from_before_a_field_goes_on_and_a_volume_that_differs_is_named(tmp_path):
    volumes = [{"id": "a", "path": "a.tif"}, {"id": "b", "path": "b.tif"}]

    def of(**fields):
        return recipe(tmp_path, data=Data.model_validate({"volumes": volumes} | fields))

    open_run("train_metgan", of(), "quickstart")
    written = json.loads((tmp_path / "mine/run.json").read_text())
    for name in ("labels", "unmapped", "orientation"):
        del written["recipe"]["data"][name]
    for entry in written["recipe"]["data"]["volumes"]:
        del entry["domain"]
    del written["recipe"]["synthesis"]["format"]
    (tmp_path / "mine/run.json").write_text(json.dumps(written))
    assert open_run("train_metgan", of(), "quickstart").continued
    for fields, culprit in (
        ({"labels": {3: "lesion"}}, r"data\.labels was None"),
        ({"volumes": [volumes[0], volumes[1] | {"domain": "ct"}]}, r"data\.volumes\.1\.domain was None, is 'ct'"),
        ({"volumes": volumes[:1]}, r"data\.volumes was"),
    ):
        with pytest.raises(UserError, match=culprit):
            open_run("train_metgan", of(**fields), "quickstart")


def test_a_run_whose_recipe_has_the_fields_of_all_methods_goes_on(tmp_path):
    open_run("train_metgan", recipe(tmp_path), "quickstart")
    known = tmp_path / "mine" / "run.json"
    written = json.loads(known.read_text())
    written["recipe"]["method"] |= {"kl": 0.05, "latent": 256, "feature_matching": 10.0, "shape": 1.0, "organs": []}
    known.write_text(json.dumps(written))
    assert open_run("train_metgan", recipe(tmp_path), "quickstart").continued
    # Nor are they told as differences where something else keeps the recipe from being read.
    written["recipe"]["training"]["gone"] = 1
    known.write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"another recipe \(training\.gone was 1, is None\)"):
        open_run("train_metgan", recipe(tmp_path), "quickstart")


@pytest.mark.parametrize(
    ("job", "recipe_name", "first"),
    [
        ("train_metgan", "quickstart", "quickstart-2"),
        ("train_metgan", "/mine/cells.yaml", "cells-2"),
        ("evaluate", "quickstart", "evaluate-2"),
        ("evaluate", "cells", "evaluate-cells-2"),
    ],
)
def test_a_run_without_a_name_is_called_by_what_it_is(tmp_path, job, recipe_name, first):
    assert open_run(job, recipe(tmp_path, name=None), recipe_name).name.startswith(first)
