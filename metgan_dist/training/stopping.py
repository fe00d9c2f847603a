"""A stop that waits until a training has saved: SIGINT (Ctrl-C) and SIGTERM in the process that drives it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Of the half minute that a job gives the jobs under it before it kills them; its own records take the rest.
SAVE_SECONDS = 20.0


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGINT and SIGTERM go to `handler` within the block; one that was ignored, as `nohup` does, stays ignored.

    In other threads than the main one, where signals do not arrive, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}
    before = {number: one for number, one in before.items() if one is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, one in before.items():
            signal.signal(number, one)


@contextmanager
def postponed_stop(ask: Callable[[], None], seconds: float = SAVE_SECONDS) -> Iterator[None]:
    """A first SIGINT or SIGTERM within the block calls `ask`, in a thread, and has its own effect when the block ends.

    A second SIGINT ends the block at once, and so does `ask` when it fails, or when it was in vain for `seconds`.
    """
    asked: list[int] = []
    ended, late = threading.Event(), threading.Event()

    def see_to_it() -> None:
        try:
            ask()
            in_time = ended.wait(seconds)
        except Exception:
            in_time = False
        if not in_time:
            late.set()
            # A real signal: it wakes the main thread from whatever it waits for.
            signal.pthread_kill(threading.main_thread().ident or 0, asked[0])

    def handle(number: int, _frame: FrameType | None) -> None:
        """Ask once; raise KeyboardInterrupt when there is no more time or patience."""
        if not asked:
            asked.append(number)
            threading.Thread(target=see_to_it, daemon=True).start()
        elif late.is_set() or number == signal.SIGINT:
            raise KeyboardInterrupt

    try:
        with handled(handle):
            yield
    finally:
        ended.set()
        if asked:
            signal.raise_signal(asked[0])
