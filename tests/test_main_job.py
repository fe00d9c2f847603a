"""Who learns from what in the main job: the judge shares neither tiles nor network with the frozen segmentor."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from tile_sets import write_set

from metgan_dist import main_job
from metgan_dist.recipe import Recipe
from metgan_dist.training.launch import Trained
from metgan_dist.training.worker import _training_rows


@pytest.fixture
def train(monkeypatch, capsys):
    """train(tiles, role, part) -> (its network, the rows of its training, what was said); no training starts."""
    seen = []

    def assign(opened, tiles, role, recipe):
        return main_job.Assignment(role, recipe, tiles.uri, "", None, "", "", "")

    def run_training(assignment, report):
        seen.append(assignment)
        return Trained("best", "last", start.dice, 8)

    monkeypatch.setattr(main_job, "assign", assign)
    monkeypatch.setattr(main_job, "run_training", run_training)

    def start(tiles, *role_and_part):
        result = SimpleNamespace(phase=lambda _: nullcontext(), artefacts={}, scores={})
        recipe = Recipe.model_validate({"tiles": {"size": [64]}, "training": {"batch_size": 2}})
        main_job.train_segmentor(SimpleNamespace(recipe=recipe, result=result), tiles, *role_and_part)
        # Nothing stands in for a score that there is none of.
        assert result.scores == ({} if start.dice is None else {role_and_part[0]: {"dice": start.dice}})
        return seen[-1].recipe.method.segmentor_network, _training_rows(seen[-1], tiles), capsys.readouterr().out

    start.dice = None
    return start


def test_judge_and_segmentor_have_networks_and_volumes_of_their_own(tmp_path, train):
    tiles = write_set(tmp_path)
    network, rows, said = train(tiles, "segmentor", "segmentor")
    other, others, _ = train(tiles, "judge", "judge")
    assert (network, other) == ("unet", "dynunet")
    volume = tiles.index["volume"].to_numpy()
    assert set(volume[rows]) == {"v0", "v2"}
    assert set(volume[others]) == {"v1", "v3"}
    assert f"training a segmentor (unet) on {len(rows)} tiles" in said


def test_a_segmentor_for_itself_learns_from_all_training_tiles(tmp_path, train):
    tiles = write_set(tmp_path)
    assert np.array_equal(train(tiles, "segmentor")[1], tiles.positions("train"))


def test_where_they_cannot_be_kept_apart_both_learn_from_all_and_a_line_says_so(tmp_path, train):
    tiles = write_set(tmp_path, volumes=1)
    for role in ("segmentor", "judge"):
        _, rows, said = train(tiles, role, role)
        assert np.array_equal(rows, tiles.positions("train"))
        assert f"{role}: the training tiles lie at too few places to keep segmentor and judge apart" in said


@pytest.mark.parametrize(("job", "method"), [("check_training", "metgan"), ("check_segmentor_training", "segmentor")])
@pytest.mark.parametrize("field", ["stages", "stages_from"])
def test_a_stage_that_the_method_does_not_have_is_told_before_any_work(job, method, field, mistake):
    given = {"tiles": {"size": [128]}, "training": {field: {"joint": 3 if field == "stages" else "other"}}}
    with mistake(f"training.{field}: {method} has no stage 'joint'; it trains in one, as long as "):
        getattr(main_job, job)(Recipe.model_validate(given))


@pytest.mark.parametrize(("dice", "warned"), [(None, False), (0.0, True), (0.19, True), (0.2, False)])
def test_a_segmentor_that_learned_nothing_is_told_with_what_to_do(tmp_path, train, dice, warned):
    train.dice = dice
    *_, said = train(write_set(tmp_path), "segmentor", "segmentor")
    advice = [line for line in said.splitlines() if line.startswith("segmentor: warning")]
    assert len(advice) == warned
    assert all(f"Dice {dice:.3f}" in line and "method.segmentor_epochs" in line for line in advice)
