"""Where the numbers and pictures of one worker go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from metgan_dist.methods.method import Method
from metgan_dist.storage import join, write_whole

if TYPE_CHECKING:  # the loop, which knows logs, needs no MLflow
    from metgan_dist.tracking import RunLogger

# What MLflow's charts show of a curve. Each point of each term takes 0.3 kB of its store: of 25 terms 20 MB, however
# long the run is, beside as much a day of the machine's own numbers.
POINTS = 2500


def steps_between(asked: int | Literal["auto"], planned: int) -> int:
    """Steps of one interval of logging in a run of so many, as `training.log_every` asks."""
    return max(1, -(-planned // POINTS)) if asked == "auto" else asked


class Losses:
    """Loss terms since they were last taken: sums that stay on their device, so that a step waits for nothing.

    A term is averaged over the steps in which it occurs, as those of a player do that moves in every third step alone.
    Nothing of an interval is in a checkpoint: the loop takes what there is before it writes one, so a run that goes on
    begins an interval there, as the one that it goes on from did, and logs the same numbers.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """The terms of one step."""
        for name, loss in losses.items():
            self._sums[name] = self._sums[name] + loss if name in self._sums else loss.double()
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> tuple[dict[str, float], dict[str, int]]:
        """The mean of each term, and of how many steps it is; all in one transfer, and the next interval begins."""
        sums, counts = self._sums, self._counts
        self._sums, self._counts = {}, {}
        if not sums:
            return {}, {}
        totals = torch.stack(list(sums.values())).tolist()
        return {name: total / counts[name] for name, total in zip(sums, totals, strict=True)}, counts


class Log:
    """What the training loop writes to. This one forgets all of it: every rank but the first has it."""

    def metrics(self, values: Mapping[str, float], step: int, counts: Mapping[str, int] | None = None) -> None:
        """Numbers by name, at so many images; `counts` has those that are means, and of how many steps."""

    def png(self, data: bytes, name: str) -> None:
        """A picture's file under its name in the run."""


class RunLog(Log):
    """MLflow, with `prefix` before each name, so that a run's trainings do not mix; pictures go to its folder too."""

    def __init__(self, logger: RunLogger, prefix: str, run_folder: str, options: dict[str, Any]) -> None:
        self._logger, self._prefix = logger, prefix
        self._folder, self._options = run_folder, options

    def metrics(self, values: Mapping[str, float], step: int, counts: Mapping[str, int] | None = None) -> None:
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
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def metrics(self, values: Mapping[str, float], step: int, counts: Mapping[str, int] | None = None) -> None:
        self.images = step
        discriminators = {player.name for player in self._method.players() if player.discriminates}
        for name, count in (counts or {}).items():
            if name.partition("/")[0] in discriminators:
                self._sums[name] = self._sums.get(name, 0.0) + values[name] * count
                self._counts[name] = self._counts.get(name, 0) + count
        self._log.metrics(values, step, counts)

    def png(self, data: bytes, name: str) -> None:
        self._log.png(data, name)

    def report(self) -> dict[str, float]:
        """`discriminator_loss`: the smallest mean of a discriminator's loss since the last call, if there is one.

        The mean is over steps, whatever the intervals are in which they were logged.
        """
        means = [total / self._counts[name] for name, total in self._sums.items()]
        self._sums, self._counts = {}, {}
        return {"discriminator_loss": min(means)} if means else {}
