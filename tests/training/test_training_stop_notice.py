"""A stop is asked for every step by a worker alone, and by several so often that there is time left to save."""

from types import SimpleNamespace

import pytest
import torch

from metgan_dist.training import stop_notice
from metgan_dist.training.stop_notice import StopNotice


@pytest.fixture
def rounds(monkeypatch):
    """rounds(seconds of each step, ranks): the steps after which rank 0 looked for a stop."""

    def count(seconds, world):
        now, made, looked = 0.0, 0, []
        monkeypatch.setattr(stop_notice, "time", SimpleNamespace(monotonic=lambda: now))
        monkeypatch.setattr(stop_notice.dist, "broadcast", lambda *_: None)
        assignment = SimpleNamespace(folder="here", asked_to_stop=lambda: bool(looked.append(made)))
        notice = StopNotice(assignment, 0, world, torch.device("cpu"))
        for one in seconds:
            now, made = now + one, made + 1
            notice()
        return looked

    return count


def test_a_worker_alone_asks_after_each_step(rounds):
    assert rounds([0.01] * 5, 1) == [1, 2, 3, 4, 5]


def test_several_ask_every_ten_quick_steps(rounds):
    assert rounds([0.01] * 25, 2) == [1, 11, 21]


def test_several_ask_after_each_step_that_takes_long(rounds):
    assert rounds([5.0] * 4, 2) == [1, 2, 3, 4]


def test_several_ask_about_once_a_second(rounds):
    assert rounds([0.3] * 10, 2) == [1, 4, 7, 10]


def test_several_follow_the_pace_of_steps(rounds):
    """A long first step, which compiles; quick ones; then slow ones, as another stage may have."""
    assert rounds([30.0] + [0.09] * 12 + [4.0] * 12, 2) == [1, 2, 12, 22, 23, 24, 25]
