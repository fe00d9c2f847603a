"""The share of a run's time that goes into its steps, by a clock that the test turns."""

from types import SimpleNamespace

import pytest
from test_training_stages import losses, recipe, run
from toys import Staged, image, register

from metgan_dist.recipe import Recipe
from metgan_dist.training.launch import Checkpoints, _trained
from metgan_dist.training.utilisation import Utilisation


class Clock:
    """Seconds that pass when it is told so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds


def test_the_share_of_an_interval_and_of_the_run():
    clock = Clock()
    clock.passes(50)
    time = Utilisation(clock)
    for waiting, working in ((1, 3), (1, 3)):
        clock.passes(waiting)
        with time.step():
            clock.passes(working)
    assert (time.of_interval(), time.of_all()) == (0.75, 0.75)
    clock.passes(2)
    with time.step():
        clock.passes(2)
    assert (time.of_interval(), time.of_all()) == (0.5, 8 / 12)
    assert time.of_interval() == 0  # no time has passed


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by three seconds in each step of the toy."""
    register(monkeypatch, staged=Staged)
    clock, learn = Clock(), Staged.losses

    def slow(self, player, batch, made):
        clock.passes(3 if player == "segmentors" else 0)
        return learn(self, player, batch, made)

    monkeypatch.setattr(Staged, "losses", slow)
    return clock


def test_waiting_for_tiles_validations_and_checkpoints_are_no_utilisation(clock, tmp_path):
    def stream(start, stop):
        for position in range(start, stop):
            clock.passes(1)
            yield image(position)

    def validate(_stepper):
        clock.passes(8)
        return {"mae": 1.0}, None

    plan = recipe(stages={"pretrain": 0}, epochs=1, log_every=2, validate_every=2, checkpoint_every=100)
    around = {"stream": stream, "validate": validate, "clock": clock}
    _, kept = run(plan, tmp_path, **around)
    # Two steps of 3 of 4 seconds each; then the validation of before, of 8 seconds, beside them.
    assert [terms["utilisation"] for _, terms in losses(kept)] == [6 / 8, 6 / 16]
    assert [metrics["utilisation"] for _, metrics in kept.metrics_kept] == [6 / 16, 12 / 32]
    assert [metrics["seconds"] for _, metrics in kept.metrics_kept] == [16, 32]
    clock.passes(1000)  # while it was not running
    longer = recipe(stages={"pretrain": 0}, epochs=2, log_every=2, validate_every=100, checkpoint_every=100)
    _, again = run(longer, tmp_path, tmp_path / "images-000000004", **around)
    ((_, metrics),) = again.metrics_kept
    assert (metrics["seconds"], metrics["utilisation"]) == (32 + 16 + 8, 12 / 24)


def test_it_is_among_what_a_training_took():
    metrics = {"score": 1.0, "images": 8, "seconds": 4.0, "utilisation": 0.75}
    trained = _trained(SimpleNamespace(recipe=Recipe()), Checkpoints([("a", metrics)], ("a", metrics)), print)
    assert trained.resources == {"seconds": 4.0, "utilisation": 0.75}
