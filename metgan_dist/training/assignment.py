"""What the driver of a run hands to the workers of one of its trainings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ray.util.queue import Queue

from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.recipe import Recipe
from metgan_dist.storage import join
from metgan_dist.tracking import Credentials
from metgan_dist.training.review import Review


@dataclass(frozen=True)
class Assignment:
    """One training of a run, as its workers need it; `role` names it within the run (segmentor, judge, metgan).

    `start_from`: a checkpoint folder to begin from where the training has none of its own. `keep_last`: so many of the
    latest checkpoints are kept; without it, the best and the last. `review` sees each report and may end the training.
    `queue` takes lines for a person; without one, the training opens its own.
    """

    role: str
    recipe: Recipe
    tiles: str
    run_folder: str
    plan: ResourcePlan
    tracking_uri: str
    mlflow_run_id: str
    spool: str
    segmentor: str | None = None
    judge: str | None = None
    start_from: str | None = None
    keep_last: int | None = None
    review: Review | None = None
    credentials: Credentials = field(default_factory=Credentials.of_this_process)
    queue: Queue | None = None

    @property
    def folder(self) -> str:
        """Where the training keeps its checkpoints and how it ended."""
        return join(self.run_folder, "train", self.role)

    @property
    def options(self) -> dict[str, Any]:
        """What the file system of the run's folder needs."""
        return self.recipe.storage.options


def enter(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs, from config["assignment"].

    Apart from the worker itself, since Ray's own processes load this too, and would load torch and all for nothing.
    """
    from metgan_dist.training.worker import work

    work(config["assignment"])
