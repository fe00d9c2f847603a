"""Lines a person can read, from rank 0 of a run to the terminal of its driver.

Ray can forward the raw output of every process; that buries the one line that matters. Workers put finished lines on a
queue instead, and the driver prints them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
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
    """Speed and time left of a run, as a line every few seconds."""

    def __init__(self, say: Callable[[str], None], title: str, start: int, total: int, every: float = 10.0) -> None:
        self._say, self._title, self._total, self._every = say, title, total, every
        self._began = self._last = time.monotonic()
        self._start = start
        self._paused = 0.0

    def rate(self, images: int) -> float:
        """Images a second since the run (re)started, time spent on validation and checkpoints taken out."""
        return (images - self._start) / max(1e-9, time.monotonic() - self._began - self._paused)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time in this block is not training time."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def step(self, images: int, losses: Mapping[str, float]) -> None:
        """Say where the run is, if it is time to."""
        now = time.monotonic()
        if now - self._last < self._every and images < self._total:
            return
        self._last = now
        rate = self.rate(images)
        left = (self._total - images) / rate if rate > 0 else float("inf")
        terms = "  ".join(
            f"{name.split('/')[-1] if name.startswith('generators') else name} {value:.3f}"
            for name, value in losses.items()
        )
        self._say(f"{self._title}  {images}/{self._total} images  {rate:.1f}/s  {duration(left)} left  {terms}")


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
