"""Losses of an interval are means over its steps, and as many as charts show."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from test_training_stages import losses, recipe, run
from toys import Staged, register

from metgan_dist.cluster import progress
from metgan_dist.recipe import Recipe, Training
from metgan_dist.recipe.mistakes import first_mistake
from metgan_dist.training.logs import Log, Losses, Watch, steps_between


@pytest.mark.parametrize(
    ("asked", "planned", "expected"),
    [("auto", 0, 1), ("auto", 100, 1), ("auto", 2500, 1), ("auto", 2501, 2), ("auto", 100_000, 40), (7, 100_000, 7)],
)
def test_an_interval_is_a_step_in_short_runs_and_grows_with_the_planned_steps(asked, planned, expected):
    assert steps_between(asked, planned) == expected


def test_a_run_says_how_often_it_logs_or_leaves_it_to_its_length():
    assert (Training().log_every, Training(log_every=3).log_every) == ("auto", 3)
    assert Training(log_every="20").log_every == 20


@pytest.mark.parametrize("asked", [0, "often", True, 1.5])
def test_any_other_interval_is_one_line(asked):
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"training": {"log_every": asked}})
    line = f"training.log_every: {asked!r}: must be auto, or a whole number of steps above 0"
    assert first_mistake(caught.value) == line


def test_a_term_is_averaged_over_the_steps_in_which_it_occurs():
    losses = Losses()
    assert losses.take() == ({}, {})
    for step in range(6):
        losses.add({"a": torch.tensor(float(step))} | ({"b": torch.tensor(8.0 * step)} if step % 3 == 2 else {}))
    assert losses.take() == ({"a": 2.5, "b": 28.0}, {"a": 6, "b": 2})
    losses.add({"a": torch.tensor(0.1)})
    assert losses.take() == ({"a": float(torch.tensor(0.1))}, {"a": 1})  # as it is, in an interval of one step


def test_all_terms_come_from_the_device_in_one_transfer(monkeypatch):
    losses, transfers, tolist = Losses(), [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: transfers.append(self.shape) or tolist(self))
    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: pytest.fail("a transfer of one number"))
    for _ in range(5):
        losses.add({"a": torch.tensor(1.0), "b": torch.tensor(2.0)})
    assert not transfers
    assert losses.take()[0] == {"a": 1.0, "b": 2.0}
    assert transfers == [(2,)]


def test_a_report_has_the_mean_over_steps_of_the_weakest_discriminators_loss_since_the_last_one():
    players = [SimpleNamespace(name=name, discriminates=name != "generators") for name in ("generators", "d", "e")]
    watch = Watch(Log(), SimpleNamespace(players=lambda: players))
    watch.metrics(
        {"generators/pair": 0.0, "d/real": 1.0, "e/real": 9.0}, 8, {"generators/pair": 4, "d/real": 4, "e/real": 4}
    )
    watch.metrics({"d/real": 2.0, "images_per_second": 0.1}, 10, {"d/real": 1})
    watch.metrics({"validation/mae": 0.01}, 10)
    assert watch.images == 10
    assert watch.report() == {"discriminator_loss": pytest.approx(6 / 5)}
    assert watch.report() == {}


@pytest.fixture
def toys(monkeypatch):
    register(monkeypatch, staged=Staged)


def joint(**training):
    """The second stage of the toy alone: twelve steps of an image, a term in each and others in every third."""
    return recipe(stages={"pretrain": 0}, epochs=3, **{"checkpoint_every": 4, **training})


def test_mean_losses_of_an_interval_are_logged_at_once_and_those_of_a_run_that_goes_on_are_the_same(toys, tmp_path):
    single, began = dict(losses(run(joint(), tmp_path / "each")[1])), 0
    assert list(single) == list(range(1, 13))
    whole = losses(run(joint(log_every=3), tmp_path / "whole")[1])
    # A checkpoint, one at 4 and one at 8, ends an interval as well.
    assert [images for images, _ in whole] == [3, 4, 6, 8, 9, 12]
    for images, means in whole:
        steps = [single[image] for image in range(began + 1, images + 1)]
        assert means.keys() == {term for step in steps for term in step}
        for term in timeless(means):
            values = [step[term] for step in steps if term in step]
            assert means[term] == pytest.approx(sum(values) / len(values), rel=1e-12)
        began = images
    run(joint(log_every=3), tmp_path / "broken", stop=6)
    again = losses(run(joint(log_every=3), tmp_path / "broken", tmp_path / "broken" / "images-000000004")[1])
    assert [(images, timeless(means)) for images, means in again] == [
        (images, timeless(means)) for images, means in whole[2:]
    ]


def timeless(means):
    return {name: value for name, value in means.items() if "/" in name}


def test_progress_shows_the_last_means_between_two_points_of_the_curves(toys, tmp_path, monkeypatch):
    now, usual = itertools.count(0, 20), progress.Progress.__init__.__kwdefaults__
    monkeypatch.setattr(progress.Progress.__init__, "__kwdefaults__", {**usual, "clock": lambda: next(now)})
    _, kept = run(joint(log_every=5, checkpoint_every=100), tmp_path)
    shown = f"segmentors/real {losses(kept)[0][1]['segmentors/real']:.3f}"
    lines = {images: line for images in range(1, 13) for line in kept.said if f"  {images}/12 images" in line}
    assert [images for images in range(1, 13) if shown in lines[images]] == [5, 6, 7, 8, 9]
