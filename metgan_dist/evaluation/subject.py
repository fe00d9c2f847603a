"""What is scored with what in a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.recipe import Scores
from metgan_dist.scores.column import Column
from metgan_dist.tasks import Task


@dataclass(frozen=True)
class Subject:
    """What is scored with what: the task on its tiles, those that are scored, the judges, the scores, why some are not.

    judges: checkpoints of those that find labels in everybody's images, by role; without those that no score needs.
    """

    task: Task
    rows: np.ndarray
    judges: Mapping[str, str]
    settings: Scores
    skipped: Mapping[str, str]

    @property
    def judge(self) -> str | None:
        """Checkpoint of the one that finds labels in tumour images; None where there is none."""
        return self.judges.get("judge")

    @property
    def names(self) -> tuple[str, ...]:
        """The scores of the table that can be computed."""
        return tuple(name for name in self.settings.names if name not in self.skipped)

    @property
    def whole_columns(self) -> list[Column]:
        """Those of them that are of whole volumes."""
        by_name = {column.name: column for column in self.task.whole_columns}
        return [by_name[name] for name in self.names if name in by_name]


def named_scores(task: Task, settings: Scores) -> Scores:
    """The settings with the scores that a table of the task has where none are named; UserError for one of another."""
    if not settings.names:
        return settings.model_copy(update={"names": task.usual})
    known = [column.name for column in (*task.columns, *task.whole_columns)]
    for name in settings.names:
        if name not in known:
            raise UserError(
                f"scores.names: {name} is no score of {task.name.replace('_', ' ')} tiles; use {', '.join(known)}"
            )
    return settings
