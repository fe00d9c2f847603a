"""Where the numbers and pictures of one worker go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metgan_dist.methods.method import Method
from metgan_dist.storage import join, write_whole

if TYPE_CHECKING:  # the loop, which knows logs, needs no MLflow
    from metgan_dist.tracking import RunLogger


class Log:
    """What the training loop writes to. This one forgets all of it: every rank but the first has it."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name, at so many images."""

    def png(self, data: bytes, name: str) -> None:
        """A picture's file under its name in the run."""


class RunLog(Log):
    """MLflow, with `prefix` before each name, so that a run's trainings do not mix; pictures go to its folder too."""

    def __init__(self, logger: RunLogger, prefix: str, run_folder: str, options: dict[str, Any]) -> None:
        self._logger, self._prefix = logger, prefix
        self._folder, self._options = run_folder, options

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._logger.metrics({f"{self._prefix}{name}": value for name, value in values.items()}, step)

    def png(self, data: bytes, name: str) -> None:
        self._logger.png(data, name)
        write_whole(join(self._folder, name), data, self._options)


class Watch(Log):
    """Passes all on to a log, and keeps what the next report adds: how far, and how the discriminators fare."""

    def __init__(self, log: Log, method: Method) -> None:
        self.images = 0
        self._log = log
        self._method = method
        self._losses: dict[str, list[float]] = {}

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.images = step
        discriminators = {player.name for player in self._method.players() if player.discriminates}
        for name, value in values.items():
            if name.partition("/")[0] in discriminators:
                self._losses.setdefault(name, []).append(float(value))
        self._log.metrics(values, step)

    def png(self, data: bytes, name: str) -> None:
        self._log.png(data, name)

    def report(self) -> dict[str, float]:
        """`discriminator_loss`: the smallest mean of a discriminator's loss since the last call, if there is one."""
        means = [sum(values) / len(values) for values in self._losses.values()]
        self._losses = {}
        return {"discriminator_loss": min(means)} if means else {}
