"""Validations and checkpoints come when they are due, alike on all ranks, and change nothing of the weights."""

import pytest
from test_training_loop import _same
from test_training_stages import files, recipe, run
from toys import Staged, image, register

from metgan_dist.recipe import Interval
from metgan_dist.training.due import Due
from metgan_dist.training.schedule import Length


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    register(monkeypatch, staged=Staged)


def ticking(pace, stop=1000):
    """Surroundings whose clock goes on by so many seconds with each step of one image; its images end at `stop`."""
    now = [0.0]

    def stream(start, end):
        for position in range(start, min(end, stop)):
            now[0] += pace
            yield image(position)

    return {"seconds": lambda: now[0], "stream": stream}


def validated(kept):
    return [images for images, values in kept.logged if isinstance(values, dict) and "validation/mae" in values]


def saved(kept):
    return [metrics["images"] for _, metrics in kept.metrics_kept]


@pytest.mark.parametrize(
    ("interval", "expected"), [(2000, [32, 63, 94]), ("40 steps", [40, 80]), ("1 step", list(range(1, 101)))]
)
def test_images_and_steps_are_due_at_their_multiples(interval, expected):
    due = Due(Interval.of(interval), Length(64, 6400), lambda: 0.0)
    assert [steps for steps in range(1, 101) if due.is_due(64 * steps, steps)] == expected


def test_a_time_is_counted_from_the_end_of_what_was_done():
    """By a clock that is read every few steps, as rank 0's is: it stands at 0 until all first meet."""
    now = [0.0]
    due = Due(Interval.of("1 min"), Length(1, 10), lambda: now[0])

    def at(seconds):
        now[0] = seconds
        return due.is_due(1, 1)

    assert [at(seconds) for seconds in (0, 900, 900, 959, 960, 970)] == [False, False, False, False, True, True]
    due.done()  # after nine minutes, of which the next reading tells
    assert [at(seconds) for seconds in (970, 1510, 1569, 1570)] == [False, False, False, True]


def test_weights_do_not_depend_on_when_a_run_validates_and_saves(tmp_path):
    by_images, plain = run(recipe(), tmp_path / "images")
    timed = recipe(validate_every="30 s", checkpoint_every="20 s")
    by_time, kept = run(timed, tmp_path / "timed", **ticking(10.0))
    assert (saved(plain), validated(plain)) == ([3, 6, 8, 9, 12, 15, 16], [8, 16])
    assert (saved(kept), validated(kept)) == ([3, 4, 7, 8, 11, 12, 15, 16], [4, 8, 12, 16])
    _same(by_images.method.state_dict(), by_time.method.state_dict())
    # Cut off, and gone on with from the last checkpoint, at another pace.
    _, earlier = run(timed, tmp_path / "broken", **ticking(10.0, stop=9))
    folder = tmp_path / "broken" / earlier.metrics_kept[-1][0]
    _, again = run(timed, tmp_path / "broken", folder, **ticking(20.0))
    assert saved(earlier) + saved(again) == [3, 4, 7, 8, 10, 11, 13, 14, 16]
    _same(files(tmp_path / "images", 16), files(tmp_path / "broken", 16))


def test_weights_are_the_same_by_steps(tmp_path):
    by_images, _ = run(recipe(), tmp_path / "images")
    by_steps, kept = run(recipe(validate_every="5 steps", checkpoint_every="4 steps"), tmp_path / "steps")
    assert (saved(kept), validated(kept)) == ([4, 5, 8, 10, 12, 15, 16], [5, 8, 10, 15, 16])
    _same(by_images.method.state_dict(), by_steps.method.state_dict())


@pytest.mark.parametrize("interval", [2, "2 steps", "10 s"])
def test_test_tiles_are_met_at_each_second_validation_whatever_it_goes_by(tmp_path, interval):
    plan = recipe(stages={"pretrain": 0}, validate_every=interval, checkpoint_every=100)
    plan = plan.model_copy(update={"segmentation": plan.segmentation.model_copy(update={"test_every": 2})})
    met = []
    dice = {"train": {"dice": 0.0, "loss": 0.0}}
    _, kept = run(plan, tmp_path, test=lambda stepper: met.append(stepper.steps) or dice, **ticking(10.0))
    assert (validated(kept), met) == ([2, 4, 6, 8], [4, 8])
