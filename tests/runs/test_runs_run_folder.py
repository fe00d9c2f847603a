"""A run's name belongs to one recipe, one job and one MLflow run."""

import pytest

from metgan_dist.errors import UserError
from metgan_dist.recipe import MethodRecipe, Recipe, Scaling, Storage, Tracking
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
        ("train_metgan", {"method": MethodRecipe(alpha1=2)}, r"method\.alpha1 was 1\.0, is 2\.0"),
        ("make_tiles", {}, "is a run of train_metgan"),
    ],
)
def test_a_name_in_use_is_not_taken_over(tmp_path, job, more, culprit):
    open_run("train_metgan", recipe(tmp_path), "quickstart")
    with pytest.raises(UserError, match=culprit):
        open_run(job, recipe(tmp_path, **more), "quickstart")


@pytest.mark.parametrize("name", ["../else", "a b", ""])
def test_a_name_stays_inside_the_storage(tmp_path, name):
    if not name:
        assert open_run("make_tiles", recipe(tmp_path, name=None), "quickstart").name.startswith("quickstart-")
        return
    with pytest.raises(UserError, match=r"^tracking\.run: "):
        open_run("make_tiles", recipe(tmp_path, name=name), "quickstart")


def test_storage_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=r"^storage\.path: .*file"):
        open_run("make_tiles", recipe(blocked), "quickstart")
