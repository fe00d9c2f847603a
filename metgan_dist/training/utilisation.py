"""How much of a training's time goes into its steps, and not into waiting for tiles, validations and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Utilisation:
    """The share of wall time in steps, 0 to 1: of an interval, and of all since the run (re)started.

    Of one rank, whose steps hold its waiting for slower ones, too. A step waits for its device, to see whether
    gradients are finite, so the time that it takes is that of its work.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._asked = clock()
        self._stepped = self._stepped_before = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time in this block is a step's."""
        began = self._clock()
        yield
        self._stepped += self._clock() - began

    def of_all(self) -> float:
        """The share since the (re)start."""
        return self._stepped / max(self._clock() - self._began, 1e-9)

    def of_interval(self) -> float:
        """The share since this was last asked for; the next interval begins."""
        now = self._clock()
        share = (self._stepped - self._stepped_before) / max(now - self._asked, 1e-9)
        self._asked, self._stepped_before = now, self._stepped
        return share
