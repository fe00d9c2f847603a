"""SinGAN in the training loop: scale after scale, a drop of the rates in each, killed within one and gone on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from alone import Killed, assignment, killed_at, same, state
from tile_sets import write_set

from metgan_dist.recipe import Recipe
from metgan_dist.trained import find_stages, load_method
from metgan_dist.training.launch import run_training
from metgan_dist.training.schedule import rate_factor
from metgan_dist.training.step import Stepper

EPOCHS = 6  # steps of each of three scales


@pytest.fixture(scope="module")
def assigned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    tiles = write_set(folder / "tiles", train=2, val=1, test=1, volumes=1, edge=32)
    training = {"augment": False, "learning_rate": 5e-4, "decay_from": 0.5, "epochs": EPOCHS}
    recipe = Recipe.model_validate(
        {
            "tiles": {"kind": "slice", "size": [32]},
            "method": {"name": "singan", "width": 1 / 8, "volume": "v0", "plane": 1},
            "training": {**training, "checkpoint_every": 4, "validate_every": 100},
            "scaling": {"workers": 0},
        }
    )
    return lambda name: assignment(folder, name, recipe, tiles.uri)


@pytest.fixture(scope="module")
def whole(assigned):
    return run_training(assigned("whole"), print)


def test_all_scales_are_trained_and_the_last_checkpoint_has_them(whole):
    assert whole.images == 3 * EPOCHS
    assert whole.best == whole.last
    kinds = ("generator", "discriminator")
    assert set(state(whole)["state.pt"]["networks"]) == {f"{kind}_{scale}" for kind in kinds for scale in range(3)}
    assert set(state(whole)["state.pt"]["optimisers"]) == {"critic_2", "generator_2"}
    assert json.loads(Path(whole.last, "meta.json").read_text())["ended"] == {"scale-0": 6, "scale-1": 12}
    pyramid = load_method(whole.last)[0].pyramid
    assert len(pyramid.generators) == 3
    assert all(generator.amplitude > 0 for generator in pyramid.generators)
    assert [tuple(own.shape[2:]) for own in pyramid.reconstruct()] == list(pyramid.scales.edges)


@pytest.mark.parametrize(("images", "last"), [(5, 4), (11, 8), (13, 12), (17, 16)])
def test_a_training_that_is_killed_goes_on_bit_for_bit(whole, assigned, images, last, monkeypatch, capsys):
    """Inside each scale, and at the end of one."""
    killed = assigned(f"killed-{images}")
    with monkeypatch.context() as patch:
        killed_at(patch, images)
        with pytest.raises(Killed):
            run_training(killed, print)
    capsys.readouterr()
    continued = run_training(killed, print)
    assert f"continuing from {last} of" in capsys.readouterr().out
    assert same(state(continued), state(whole))


def test_the_coarse_scales_of_another_run_are_taken_as_they_are(whole, assigned, monkeypatch, capsys):
    one = assigned("taken")
    taken = {f"scale-{scale}": whole.last for scale in (0, 1)}
    training = one.recipe.training.model_copy(update={"stages_from": taken})
    recipe = one.recipe.model_copy(update={"training": training})
    assert set(find_stages(recipe)) == set(taken)
    run = run_training(replace(one, recipe=recipe, stages_from=taken), print)
    assert run.images == EPOCHS
    own, theirs = (state(run)["state.pt"]["networks"] for run in (run, whole))
    for name, weights in theirs.items():
        assert same(own[name], weights) == (not name.endswith("2"))
    assert "scale-0 (from" in capsys.readouterr().out


def test_rates_drop_at_once_and_stay_and_each_scale_begins_anew(assigned, monkeypatch):
    seen, move = [], Stepper.step

    def noted(self, batches):
        (rate,) = {group["lr"] for optimiser in self.optimisers.values() for group in optimiser.param_groups}
        seen.append(rate)
        return move(self, batches)

    monkeypatch.setattr(Stepper, "step", noted)
    run_training(assigned("rates"), print)
    assert seen == pytest.approx(3 * [*3 * [5e-4], *3 * [5e-5]])


def test_the_papers_drop_is_at_step_1600_of_2000():
    factors = [rate_factor(step, 2000, 0.8, 0.1) for step in (0, 1599, 1600, 1999)]
    assert factors == [1, 1, 0.1, 0.1]
    assert rate_factor(1600, 2000, 0.8) == 1  # linearly it falls from there on
