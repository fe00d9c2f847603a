"""What is scored with what in a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.recipe import Scores
from metgan_dist.tasks import Task


@dataclass(frozen=True)
class Subject:
    """What is scored with what: the task on its tiles, those that are scored, the judge, the scores, why some are not.

    judge: checkpoint of the one that finds labels in everybody's images, None where there is none.
    """

    task: Task
    rows: np.ndarray
    judge: str | None
    settings: Scores
    skipped: Mapping[str, str]


def named_scores(task: Task, settings: Scores) -> Scores:
    """The settings with the scores that a table of the task has where none are named; UserError for one of another."""
    if not settings.names:
        return settings.model_copy(update={"names": task.usual})
    known = [column.name for column in task.columns]
    for name in settings.names:
        if name not in known:
            raise UserError(
                f"scores.names: {name} is no score of {task.name.replace('_', ' ')} tiles; use {', '.join(known)}"
            )
    return settings
