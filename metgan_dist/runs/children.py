"""Jobs as child processes: several at once, their lines passed on, and none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

from metgan_dist.errors import UserError
from metgan_dist.runs.job import ENDS_WITH_PARENT
from metgan_dist.training.stopping import SIGNALS, handled

POLL_SECONDS = 0.2
GRACE_SECONDS = 30.0
Made = TypeVar("Made")


class Child:
    """A running job whose output goes to `report`, line by line; it ends by itself when this process dies."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], report: Callable[[str], None]) -> None:
        # A session of its own, so that a Ctrl-C in the terminal reaches the parent alone, which then ends its children.
        self.process = subprocess.Popen(
            list(arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**environment, ENDS_WITH_PARENT: "1"},
            start_new_session=True,
        )
        self.last_line = ""
        self._report = report
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text := line.rstrip():
                if not self.last_line.startswith("error: "):
                    self.last_line = text
                self._report(text)

    def failure(self) -> str | None:
        """Why an ended job failed, None if it did not."""
        self._reader.join(timeout=10)
        if self.process.returncode == 0:
            return None
        if self.last_line.startswith("error: "):
            return self.last_line.removeprefix("error: ")
        return f"ended with exit code {self.process.returncode} ({self.last_line})"


def run_children(
    commands: Mapping[str, Sequence[str] | Callable[[], Sequence[str] | None]],
    at_once: int,
    environment: Mapping[str, str],
    report: Callable[[str, str], None],
    needs: Mapping[str, Collection[str]] | None = None,
) -> dict[str, str]:
    """Run all commands, at most `at_once` at a time; returns the reasons of those that failed, by name.

    `report` gets (name, line). A failed command does not stop the others, but those that need it (`needs`: names of
    other commands, by name), which fail, too; a command waits for what it needs. One that is a function is asked for
    when it may begin: None is a command that has nothing to do, a UserError the reason why it failed. When this is
    interrupted, every child is asked to end (SIGTERM), and killed with its group when it does not within half a minute.
    """
    order, running = Order(commands, needs or {}), dict[str, Child]()
    try:
        while order.waiting or running:
            while len(running) < at_once and (name := order.next(running)) is not None:
                command = commands[name]
                if (arguments := order.ask(name, command) if callable(command) else command) is not None:
                    running[name] = Child(arguments, environment, lambda line, name=name: report(name, line))  # type: ignore[misc]
            for name in [name for name, child in running.items() if child.process.poll() is not None]:
                if (reason := running.pop(name).failure()) is not None:
                    order.failed[name] = reason
            if running:
                time.sleep(POLL_SECONDS)
    finally:
        _end(list(running.values()))
    return order.failed


class Order:
    """Names that wait for what they need, in their order, and why those failed that did."""

    def __init__(self, names: Iterable[str], needs: Mapping[str, Collection[str]]) -> None:
        self.waiting, self.failed = list(names), dict[str, str]()
        self._needs = needs

    def next(self, running: Collection[str] = ()) -> str | None:
        """Take the first name that may begin; None where each waits for one that runs, or none is left."""
        for name in list(self.waiting):
            needed = self._needs.get(name, ())
            if lost := [other for other in needed if other in self.failed]:
                self.waiting.remove(name)
                self.failed[name] = f"{lost[0]}, which it needs, failed"
            elif not any(other in self.waiting or other in running for other in needed):
                self.waiting.remove(name)
                return name
        return None

    def ask(self, name: str, work: Callable[[], Made | None]) -> Made | None:
        """What `work` makes, now that it may begin; None where there is nothing to do, or a UserError says why not."""
        try:
            return work()
        except UserError as error:
            self.failed[name] = str(error)
            return None


def _end(children: Sequence[Child]) -> None:
    for child in children:
        child.process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """SIGTERM and Ctrl-C are KeyboardInterrupt within the block, so that whoever ends this job ends its children too.

    A second one is ignored: what the first began to put in order is not left half done. In other threads than the main
    one, where signals do not arrive, nothing changes.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt once; from then on both signals are ignored."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    with handled(interrupt):
        yield
