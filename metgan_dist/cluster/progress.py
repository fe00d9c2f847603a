"""Lines a person can read, from rank 0 of a run to the terminal of its driver.

Ray can forward the raw output of every process; that buries the one line that matters. Workers put finished lines on a
queue instead, and the driver prints them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:
    from ray.data import Dataset


@contextmanager
def printed_queue(report: Callable[[str], None]) -> Iterator[Queue]:
    """A queue whose lines are passed to `report` by a thread of the driver until the block ends."""
    # Here, where nobody takes its machine away before the job ends.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    done = threading.Event()

    def drain() -> None:
        while True:
            try:
                report(queue.get(timeout=0.5))
            except Empty:
                if done.is_set():
                    return
            except RayError:
                return

    printer = threading.Thread(target=drain, daemon=True)
    printer.start()
    try:
        yield queue
    finally:
        done.set()
        printer.join(timeout=10)
        with suppress(RayError):
            queue.shutdown()


class Progress:
    """How far work is, how fast it goes and how long it still takes: a line every few seconds, and one at the end.

    Args:
        say: gets the lines.
        title: what is done.
        total: how many of `unit` there are to do.
        done: how many of them were there already; they say nothing of the speed.
        every: seconds between two lines, at least.
        clock: seconds, from any beginning.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        title: str,
        total: int,
        *,
        done: int = 0,
        unit: str = "images",
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._title, self._total, self._unit = say, title, total, unit
        self._every, self._clock, self._start = every, clock, done
        self._began = self._last = clock()
        self._paused = 0.0

    def rate(self, done: int) -> float:
        """So many a second since the work (re)started, pauses taken out."""
        return (done - self._start) / max(1e-9, self._clock() - self._began - self._paused)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time in this block is not time of the work."""
        began = self._clock()
        yield
        self._paused += self._clock() - began

    def step(self, done: int, more: str = "", *, now: bool = False) -> None:
        """`done` are done: say so, and `more`, if it is time to, or `now`."""
        moment = self._clock()
        if not now and moment - self._last < self._every and done < self._total:
            return
        self._last = moment
        rate = self.rate(done)
        left = (self._total - done) / rate if rate > 0 else float("inf")
        line = f"{self._title}  {done}/{self._total} {self._unit}  {rate:.1f}/s  {duration(left)} left  {more}"
        self._say(line.rstrip())


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 7 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def worker_voice(queue: Queue | None) -> Callable[[str], None]:
    """A function that says lines to the driver; a driver that is gone is not an error of the run."""

    def say(line: str) -> None:
        if queue is None:
            print(line, flush=True)
            return
        with suppress(RayError):
            queue.put_nowait(line)

    return say


def quiet(dataset: Dataset) -> None:
    """Silence Ray Data for one data set: our own progress is what people read."""
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
