"""The description of a run says what it is, how it ended, and its scores beside what costs nothing."""

import pytest

from metgan_dist.recipe import Recipe
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.description import begun, ended
from metgan_dist.runs.job import Result
from metgan_dist.runs.run_folder import Run


@pytest.fixture
def run():
    return Run("mice", "/results/mice", "train_metgan", False, "id", {})


@pytest.fixture
def command():
    tree = {"tiles": {"kind": "projection", "size": [300], "resize": 256}, "data": {"path": "/data/mice"}}
    return Command(Recipe.model_validate(tree), "metastases", False, False)


def test_a_run_that_goes_on_says_what_it_is_and_where_its_files_lie(run, command):
    text = begun(run, command)
    assert text.startswith("**train_metgan** with `metgan`, recipe `metastases`, on /data/mice; tiles: projection, ")
    assert "256 x 256 pixels" in text
    assert "`/results/mice`" in text


def test_a_job_that_is_not_of_the_recipes_data_does_not_say_that_it_is(command):
    text = begun(Run("table", "/results/table", "evaluate", False, "id", {}), command)
    assert text == "**evaluate**. Files: `/results/table`; the whole recipe: `recipe.yaml` among the artifacts."


def test_scores_stand_beside_identity_affine_and_real_and_parts_of_scores_are_left_out(run, command):
    made = {"mae": 0.0571, "mae_std": 0.1, "label_fidelity": 0.831, "label_fidelity/lung": 0.9}
    test = {
        "tiles": 27,
        "real": {"label_fidelity": 0.78},
        "affine": {"mae": 0.0968},
        "generated": made,
        "per_volume": {"m1": {"tiles": 1, "generated": made}},
    }
    artefacts = {"best_checkpoint": "/results/mice/train/a", "grid_test": "/results/mice/grids/test.png"}
    text = ended(run, command, "finished", None, Result(scores={"test": test}, artefacts=artefacts))
    _, verdict, tiles, table, checkpoint, pictures = text.split("\n\n")
    assert verdict == "Finished."
    assert tiles.splitlines() == ["| test |  |", "| --- | --- |", "| tiles | 27 |"]
    assert table.splitlines() == [
        "| test | generated | affine | real |",
        "| --- | --- | --- | --- |",
        "| mae | 0.0571 | 0.0968 |  |",
        "| label_fidelity | 0.831 |  | 0.78 |",
    ]
    assert checkpoint == "Checkpoint: `/results/mice/train/a`"
    assert pictures == "Pictures, among the artifacts: `grids/test.png`"


def test_a_failure_has_its_reason_and_a_stop_how_to_go_on(run, command):
    assert "Failed: loss is nan." in ended(run, command, "failed", "loss is nan", Result())
    assert "under `--tracking.run mice` goes on" in ended(run, command, "stopped", "stopped by a signal", Result())
