"""Patience ends a run after the validations that it was given, a continued run too, and an ended one stays ended."""

import shutil

import pytest
import torch

from metgan_dist.methods import build_method
from metgan_dist.recipe import Recipe, Training
from metgan_dist.recipe.methods.segmentor import SegmentorRecipe
from metgan_dist.training.loop import Surroundings, train
from metgan_dist.training.schedule import Length
from metgan_dist.training.step import Stepper

EVERY = 2


class World:
    """Surroundings of one worker whose validations give the Dice values `scores`, one after the other by images."""

    def __init__(self, folder, scores, patience, stop=None):
        self.folder, self.scores, self.stop = folder, scores, stop
        self.said, self.kept, self.seen = [], {}, []
        self.recipe = Recipe(
            method=SegmentorRecipe(segmentor_width=0.03),
            training=Training(batch_size=1, validate_every=EVERY, checkpoint_every=1, patience=patience),
        )

    def run(self, resume_from=None, total=20):
        stepper = Stepper(build_method(self.recipe), torch.device("cpu"))
        train(self.recipe, stepper, Length(1, total), self.around(resume_from, stepper))
        return self

    def around(self, resume_from, stepper):
        return Surroundings(
            rank=0,
            stream=self.stream,
            validate=lambda _: ({"dice": self.scores[len(self.seen) // EVERY - 1]}, None),
            keep=self.keep,
            agree=str,
            say=self.said.append,
            log=self,
            resume_from=resume_from,
        )

    def metrics(self, values, step, counts=None):
        pass

    def stream(self, start, stop):
        self.seen += range(start)
        for position in range(start, stop):
            if position == self.stop:
                return
            self.seen.append(position)
            random = torch.Generator().manual_seed(position)
            tumour = torch.rand(1, 1, 128, 128, generator=random) * 2 - 1
            yield {"anatomy": tumour, "tumour": tumour, "label": (tumour[:, 0] > 0.9).long()}

    def keep(self, folder, name, metrics):
        shutil.copytree(folder, self.folder / name, dirs_exist_ok=True)
        self.kept[name] = metrics


RISES_ONCE = [0.2, 0.5, 0.4, 0.5, 0.3, 0.9, 0.9, 0.9, 0.9, 0.9]


@pytest.mark.parametrize(("patience", "images"), [(1, 6), (3, 10), (4, 20), (None, 20)])
def test_a_run_ends_after_that_many_validations_without_a_better_score(tmp_path, patience, images):
    world = World(tmp_path, RISES_ONCE, patience).run()
    assert len(world.seen) == images
    last = world.kept[f"images-{images:09d}"]
    early = images < 20
    assert last["stopped_early"] == early
    assert any("stopped early" in line for line in world.said) == early
    assert last["score"] == RISES_ONCE[images // EVERY - 1]


def test_patience_goes_on_counting_after_an_interruption(tmp_path):
    broken = World(tmp_path, RISES_ONCE, 3, stop=7).run()
    assert not any("stopped early" in line for line in broken.said)
    again = World(tmp_path, RISES_ONCE, 3).run(tmp_path / "images-000000007")
    assert len(again.seen) == 10
    assert again.kept["images-000000010"]["stopped_early"] == 1
    whole = World(tmp_path / "whole", RISES_ONCE, 3).run()
    states = [torch.load(w.folder / "images-000000010" / "state.pt", weights_only=True) for w in (again, whole)]
    for one, other in zip(*(state["networks"]["segmentor"].values() for state in states), strict=True):
        assert torch.equal(one, other)


def test_a_run_that_was_ended_by_patience_trains_no_further_when_started_again(tmp_path):
    World(tmp_path, RISES_ONCE, 1).run()
    again = World(tmp_path, RISES_ONCE, 1).run(tmp_path / "images-000000006")
    assert len(again.seen) == 6
    assert again.kept == {}


def test_more_patience_lets_a_run_go_on_that_had_been_ended(tmp_path):
    World(tmp_path, RISES_ONCE, 1).run()
    again = World(tmp_path, RISES_ONCE, 3).run(tmp_path / "images-000000006")
    assert len(again.seen) == 10
    assert again.kept["images-000000010"]["stopped_early"] == 1


def test_more_length_does_not_wake_a_run_that_patience_ended_and_says_what_does(tmp_path):
    World(tmp_path, RISES_ONCE, 1).run()
    again = World(tmp_path, RISES_ONCE, 1).run(tmp_path / "images-000000006", total=40)
    assert again.kept == {}
    assert again.said[-1] == "training: training.patience (1) had ended it; raise that to go on"


def test_the_last_validation_of_a_whole_run_is_no_early_stop(tmp_path):
    world = World(tmp_path, [0.5, 0.4, 0.3], 2).run(total=6)
    assert world.kept["images-000000006"]["stopped_early"] == 0
