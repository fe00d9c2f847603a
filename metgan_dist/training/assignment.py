"""What the driver of a run hands to the workers of one of its trainings, and what they leave where it cannot go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ray.util.queue import Queue

from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.errors import TrainingStopped, UserError
from metgan_dist.recipe import Recipe
from metgan_dist.storage import exists, filesystem, join, read_json, write_whole
from metgan_dist.tracking import Credentials
from metgan_dist.training.review import Review

if TYPE_CHECKING:  # Ray Train's controller reads assignments, and needs no torch
    from metgan_dist.tasks.segmentation import Part


@dataclass(frozen=True)
class Assignment:
    """One training of a run, as its workers need it; `role` names it within the run (segmentor, judge, metgan).

    `part`: whose part of the training tiles it learns from (see `tiles.splits.segmentor_and_judge`); without one, from
    all of them. `domain`: the one whose tiles it learns from alone, as from tumour images. `start_from`: a checkpoint
    folder to go on from where the training has none of its own; `weights_from`: one whose weights it begins with;
    `stages_from`: those whose weights stand for a stage, by its name. `main`: the run is for this training, which may
    be given more length when it is started again; not so the segmentors that serve it. `keep_last`: so many of the
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
    judge_source: str | None = None
    domain: str | None = None
    part: Part | None = None
    start_from: str | None = None
    weights_from: str | None = None
    stages_from: Mapping[str, str] = field(default_factory=dict)
    main: bool = True
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

    def leave(self, error: TrainingStopped | UserError, images: int = 0) -> None:
        """Write down what ended the training, at how many images: for a restart of its workers, and their driver."""
        whose = "" if isinstance(error, UserError) else f"{self.role}: "
        left = {"reason": f"{whose}{error}", "images": images, "mistake": isinstance(error, UserError)}
        write_whole(self._ending, json.dumps(left).encode(), self.options)

    def left(self) -> TrainingStopped | UserError | None:
        """What was left, as an error to raise; None where the training may go on."""
        if not exists(self._ending, self.options):
            return None
        found = read_json(self._ending, self.options, holding=("reason", "images", "mistake"))
        return UserError(found["reason"]) if found["mistake"] else TrainingStopped(found["reason"], found["images"])

    def ask_to_stop(self) -> None:
        """Ask the workers, wherever they are, to save and to end."""
        write_whole(self._stop, b"", self.options)

    def asked_to_stop(self) -> bool:
        """Whether they are asked to."""
        fs, path = filesystem(self._stop, self.options)
        return bool(fs.exists(path))

    def forget(self) -> None:
        """Take away what an earlier start left."""
        for left in (self._ending, self._stop):
            fs, path = filesystem(left, self.options)
            if fs.exists(path):
                fs.rm_file(path)

    @property
    def _ending(self) -> str:
        return join(self.folder, "stopped.json")

    @property
    def _stop(self) -> str:
        return join(self.folder, "stop")
