"""Lines of progress: how far, how fast, how long still, at most every few seconds and at the end."""

import pytest

from metgan_dist.cluster.progress import Progress, duration


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def said():
    return []


def test_time_is_said_as_people_say_it():
    assert [duration(seconds) for seconds in (42, 420, 12600)] == ["42 s", "7 min", "3.5 h"]


def test_a_line_every_few_seconds_and_one_at_the_end(said, clock):
    progress = Progress(said.append, "tiles", 80, unit="tiles", every=10, clock=clock)
    for done in range(1, 81):
        clock.now += 1 if done <= 25 else 0
        progress.step(done)
    assert said == [
        "tiles  10/80 tiles  1.0/s  70 s left",
        "tiles  20/80 tiles  1.0/s  60 s left",
        "tiles  80/80 tiles  3.2/s  0 s left",
    ]


def test_the_end_is_said_with_what_the_work_has_to_say(said, clock):
    progress = Progress(said.append, "metgan", 10, every=3600, clock=clock)
    clock.now += 5
    progress.step(5, "pair 1.000")
    assert said == []
    progress.step(10, "pair 1.000  tumour 0.250")
    assert said == ["metgan  10/10 images  2.0/s  0 s left  pair 1.000  tumour 0.250"]


def test_what_was_there_already_is_not_speed(said, clock):
    progress = Progress(said.append, "t", 100, done=80, every=1, clock=clock)
    clock.now += 5
    progress.step(90)
    assert said == ["t  90/100 images  2.0/s  5 s left"]
    assert progress.rate(90) == 2


def test_pauses_are_not_time_of_the_work(clock):
    progress = Progress(print, "t", 100, clock=clock)
    clock.now += 2
    with progress.pause():
        clock.now += 50
    assert progress.rate(8) == 4


def test_a_line_can_be_asked_for_and_the_next_one_is_not_early(said, clock):
    progress = Progress(said.append, "scores", 100, unit="tiles", every=10, clock=clock)
    clock.now += 9
    progress.step(18, "A: 18 of 50 tiles", now=True)
    clock.now += 9
    progress.step(36)
    clock.now += 1
    progress.step(38)
    assert [line.split()[1] for line in said] == ["18/100", "38/100"]
    assert said[0].endswith("A: 18 of 50 tiles")


def test_nothing_done_is_no_division_by_nothing(said, clock):
    Progress(said.append, "t", 10, every=0, clock=clock).step(0)
    assert said == ["t  0/10 images  0.0/s  inf h left"]
