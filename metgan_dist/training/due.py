"""When it is time again for what a training does every so often, the same on all ranks."""

from __future__ import annotations

from collections.abc import Callable

from metgan_dist.recipe import Interval
from metgan_dist.training.schedule import Length


class Due:
    """Whether it is time for something: a validation, a checkpoint. To be asked by all ranks alike.

    Images and steps: after each step that reaches a multiple, so that a run that goes on does it where it would have
    been done. Time: so many seconds after it was last `done`, or after the start, so that however long it takes, the
    training has its share. `clock` is then one that all ranks read alike, and may stand still for some steps; what is
    done between two of its readings is taken to have ended at the second.
    """

    def __init__(self, interval: Interval, length: Length, clock: Callable[[], float]) -> None:
        self._interval, self._length, self._clock = interval, length, clock
        self._before: float = clock()  # the reading when it was last done
        self._since: float | None = None  # the first other one after that

    def is_due(self, images: int, steps: int) -> bool:
        """Whether it is, after the step that ended at `images` and was number `steps` of the run."""
        if self._interval.seconds is not None:
            return self._elapsed() >= self._interval.seconds
        every = int(self._interval.number)
        return steps % every == 0 if self._interval.unit == "steps" else self._length.passes(images, every)

    def done(self) -> None:
        """It was done just now; a time begins anew."""
        self._before, self._since = self._clock(), None

    def _elapsed(self) -> float:
        now = self._clock()
        if self._since is None and now != self._before:
            self._since = now
        return 0.0 if self._since is None else now - self._since
