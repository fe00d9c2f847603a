"""The mask GAN in the training loop: on masks alone, without segmentor or judge, killed and gone on bit for bit."""

import pytest
from alone import Killed, assignment, killed_at, same, state
from mask_sets import cut_masks, recipe_of

from metgan_dist.training.launch import run_training

TRAINING = {"epochs": 100, "max_steps": 12, "checkpoint_every": 16, "validate_every": 24, "validate_tiles": 4}


@pytest.fixture(scope="module")
def assigned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    tiles = cut_masks(folder, 20, tiles={"val": 0.2, "test": 0.2})
    recipe = recipe_of(folder / "masks", training=TRAINING, scaling={"workers": 0})
    return lambda name: assignment(folder, name, recipe, tiles.uri)


@pytest.fixture(scope="module")
def whole(assigned):
    return run_training(assigned("whole"), print)


def test_a_training_on_masks_validates_and_keeps_a_checkpoint_by_their_distance(whole):
    assert whole.images == 48
    assert whole.score is not None
    assert 0 < whole.score < 100
    assert set(state(whole)["state.pt"]["networks"]) == {"generator", "discriminator"}


def test_the_same_seed_gives_the_same_weights(whole, assigned):
    assert same(state(run_training(assigned("again"), print)), state(whole))


def test_a_killed_training_goes_on_bit_for_bit(whole, assigned, monkeypatch, capsys):
    killed = assigned("killed")
    with monkeypatch.context() as patch:
        killed_at(patch, 32)
        with pytest.raises(Killed):
            run_training(killed, print)
    continued = run_training(killed, print)
    assert "continuing from 24 of 48 images" in capsys.readouterr().out
    assert same(state(continued), state(whole))
