"""What every job does around its work: the command line, exit codes, timings and `result.json`."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from metgan_dist import __version__
from metgan_dist.code_version import code_version
from metgan_dist.errors import TrainingStopped, UserError, understood
from metgan_dist.runs.command_line import Command, JobFlag, parse_command
from metgan_dist.runs.run_folder import Run

# Set by a job that starts others, which then end when their standard input closes: with their parent, however it died.
ENDS_WITH_PARENT = "METGAN_ENDS_WITH_PARENT"
VERSIONS = ("ray", "torch", "torchvision", "numpy", "zarr", "mlflow")


@dataclass
class Result:
    """What a job has to show for itself; becomes `result.json` in the run's folder."""

    scores: dict[str, Any] = field(default_factory=dict)
    tiles: dict[str, Any] = field(default_factory=dict)
    artefacts: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    resources: dict[str, float] = field(default_factory=dict)
    tracking_uri: str | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of a `with` block to the timings."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.timings[name] = round(self.timings.get(name, 0.0) + time.monotonic() - began, 3)

    def write(self, run: Run, command: Command, status: str, reason: str | None = None) -> str:
        """Write `result.json`; returns its URI."""
        tree = {
            "job": run.job,
            "run": run.name,
            "status": status,
            **({"reason": reason} if reason else {}),
            "recipe_name": command.recipe_name,
            "recipe": command.recipe.model_dump(mode="json"),
            "mlflow_run_id": run.mlflow_run_id,
            "tracking_uri": self.tracking_uri,
            "scores": self.scores,
            "tiles": self.tiles,
            "timings": self.timings,
            "resources": self.resources,
            "artefacts": self.artefacts,
            "versions": {
                "metgan_dist": __version__,
                "code": code_version(),
                "python": platform.python_version(),
                **{name: metadata.version(name) for name in VERSIONS},
            },
        }
        return run.write("result.json", json.dumps(tree, indent=1))


def say(line: str) -> None:
    """Progress for a person: one line on standard output, at once.

    Where nobody reads on (`| head`), this and what follows goes nowhere, and the work goes on.
    """
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # The descriptor itself, not sys.stdout: what is left in its buffer is written once more at the end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def run_job(
    name: str,
    purpose: str,
    work: Callable[[Command], str],
    arguments: Sequence[str] | None = None,
    own: Sequence[JobFlag] = (),
    several_methods: bool = False,
) -> int:
    """Run `work` for the command line, which may have the job's `own` flags; returns the process's exit code.

    With `several_methods` the job is one of several methods, any of whose fields may be flags (see `parse_command`).

    `work` returns the URI of its result, which becomes the last line of the output (an empty one, for a dry run,
    is not printed). 0: done; 2: the user's mistake, in one line on standard error; 1: anything else.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or bool(os.environ.get("METGAN_DEBUG"))
    if os.environ.pop(ENDS_WITH_PARENT, None):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        result = work(parse_command(name, purpose, arguments, own, several_methods))
    except KeyboardInterrupt:
        print("stopped; start again with the same --tracking.run to continue", file=sys.stderr)
        return 1
    except Exception as error:
        cause = understood(error)
        if debug:
            traceback.print_exc()
        kind = "" if isinstance(cause, UserError | TrainingStopped) else f"{type(cause).__name__}: "
        line = " ".join(str(cause).split()) or "no message"
        print(f"error: {kind}{line}" + ("" if debug or not kind else " (--debug shows the traceback)"), file=sys.stderr)
        return 2 if isinstance(cause, UserError) else 1
    if result:
        say(f"result: {result}")
    return 0


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written: this returns when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)
