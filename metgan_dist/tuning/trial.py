"""A trial: one Ray Train run with its own values, logged as a child of the sweep's MLflow run.

This runs in Tune's actor for the trial, which takes next to nothing of the cluster itself. What Tune keeps as the
trial's checkpoint is a pointer to one of Ray Train's: a trial that is continued, or that takes over another's weights
(PBT), begins there. Names follow from the trial's number and values alone, so that a sweep that is started again finds
its trainings and its MLflow children.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.actor import ActorHandle

from metgan_dist.cluster.progress import worker_voice
from metgan_dist.errors import TrainingStopped, UserError, understood
from metgan_dist.methods import needs_segmentor
from metgan_dist.storage import exists, filesystem, join
from metgan_dist.training.assignment import Assignment
from metgan_dist.training.choice import NO_SCORE
from metgan_dist.training.launch import Trained, run_training
from metgan_dist.training.review import Report, Review
from metgan_dist.tuning.child_run import open_child
from metgan_dist.tuning.space import applied, digest

POLL_SECONDS = 1.0
# A training that is told to end still saves what it has logged, and frees its place on the cluster.
END_SECONDS = 60.0
# PBT's trials take over checkpoints that others made a few reports ago.
KEPT_FOR_OTHERS = 3


@dataclass(frozen=True)
class Objective:
    """A validation score that the sweep improves."""

    name: str
    mode: str

    @property
    def key(self) -> str:
        """Its name in what workers report."""
        return f"validation/{self.name}"

    @property
    def worst(self) -> float:
        """What a trial gets that has come to nothing."""
        return NO_SCORE if self.mode == "min" else -NO_SCORE


@dataclass(frozen=True)
class Sweep:
    """What all trials share: `assignment` has the recipe's own values, and the sweep's MLflow run."""

    name: str
    assignment: Assignment
    objectives: tuple[Objective, ...]
    desk: ActorHandle


@dataclass(frozen=True)
class Pointer:
    """Which training of which trial a checkpoint belongs to.

    `began` is the images that the training started from, `low_reports` the reports in a row with a discriminator below
    `tuning.collapse_loss`.
    """

    trial: str
    role: str
    checkpoint: str
    images: int
    began: int
    low_reports: int


class Trial(tune.Trainable):
    """Tune's trainable: a step is a report of the training, whose workers wait for Tune's verdict on it.

    A training that stops itself, or that its values make impossible, ends the trial with the worst score and the reason
    as `stopped`; anything else is raised, and Tune tries again. Each report counts the reports in a row (`low_reports`)
    in which a discriminator's mean loss since the report before lay below `tuning.collapse_loss`: it then tells real
    from generated without fail, and has nothing left to teach the generator. Tune ends a trial that has
    `tuning.collapse_reports` of them.
    """

    def setup(self, config: dict[str, Any], sweep: Sweep) -> None:
        """Tune's hook; the training begins with the first step, when it is known where from."""
        sweep.assignment.credentials.adopt()
        self._point, self._sweep = dict(config), sweep
        self._earlier: Pointer | None = None
        self._training: _Training | None = None
        self._last: Report = {"role": "none", "began": 0, "low_reports": 0, "checkpoint": "", "images": 0}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Tune's hook: this trial's last report, or that of the trial that it takes over from."""
        self._earlier = Pointer(**checkpoint)

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Tune's hook."""
        kept = {name: self._last[name] for name in ("role", "checkpoint", "images", "began", "low_reports")}
        return asdict(Pointer(trial=self.trial_name, **kept))

    def step(self) -> Report:
        """Tune's hook: go on to the next report; the last one again, and `done`, where there is no more."""
        try:
            if self._training is None:
                self._training = self._begin()
            row = self._training.next_report()
        except Exception as error:
            cause = understood(error)
            if not isinstance(cause, TrainingStopped | UserError):
                raise
            worst = {objective.key: objective.worst for objective in self._sweep.objectives}
            images = max(getattr(cause, "images", 0), self._last["images"])
            reason = " ".join(str(cause).split())
            return {**self._last, **worst, "images": images, "stopped": reason, "done": True}
        if row is None:
            return {**self._last, "done": True}
        low = row.get("discriminator_loss", NO_SCORE) < self._sweep.assignment.recipe.tuning.collapse_loss
        about = {name: self._last[name] for name in ("role", "began")}
        self._last = {**row, **about, "low_reports": self._last["low_reports"] + 1 if low else 0}
        return self._last

    def cleanup(self) -> None:
        """Tune's hook: whatever made the trial end, let its training come to an end of its own."""
        if self._training is not None:
            self._training.end()

    def _begin(self) -> _Training:
        """Start the training, or go on with it, or with another trial's (PBT)."""
        name, earlier = self.trial_name, self._earlier
        role, start, began, low = f"{name}-{digest(self._point)}", None, 0, 0
        if earlier is not None and earlier.trial == name:
            role, began, low = earlier.role, earlier.began, earlier.low_reports
        elif earlier is not None:
            role, began = f"{name}-{digest(self._point, earlier.checkpoint)}", earlier.images
            start = _still_there(self._sweep, earlier)
        self._last |= {"role": role, "began": began, "low_reports": low, "images": began}
        review = Review(self._sweep.desk, name)
        review.clear()
        return _Training(self._assignment(start, review), review)

    def _assignment(self, start: str | None, review: Review) -> Assignment:
        base = self._sweep.assignment
        recipe = applied(base.recipe, self._point)
        segmentor = base.segmentor if needs_segmentor(recipe) else None
        return replace(
            base,
            role=self._last["role"],
            recipe=recipe,
            segmentor=segmentor,
            start_from=start,
            keep_last=KEPT_FOR_OTHERS if recipe.tuning.scheduler == "pbt" else None,
            review=review,
            mlflow_run_id=open_child(base, self._sweep.name, self.trial_name, self._point, recipe),
        )


class _Training:
    """A training in a thread of its own, report by report."""

    def __init__(self, assignment: Assignment, review: Review) -> None:
        self._review = review
        self._done: Future[Trained] = Future()
        self._asked = self._reported = False
        self._thread = threading.Thread(target=self._run, args=[assignment], daemon=True)
        self._thread.start()

    def _run(self, assignment: Assignment) -> None:
        try:
            self._done.set_result(run_training(assignment, worker_voice(assignment.queue)))
        except BaseException as error:  # handed to the thread that waits for it
            self._done.set_exception(error)

    def next_report(self) -> Report | None:
        """The next report, the last one having been allowed to go on; None when the training is done.

        A training that an earlier start had finished reports its last scores once more.
        """
        if self._asked:
            self._review.answer(True)
            self._asked = False
        while True:
            over = self._done.done()
            row = self._review.next_row(POLL_SECONDS)
            if row is not None:
                self._asked = self._reported = True
                return row
            if over:
                trained = self._done.result()
                if self._reported:
                    return None
                self._reported = True
                return {**trained.last_scores, "images": trained.images, "checkpoint": trained.last}

    def end(self) -> None:
        """End the training at the report that waits for an answer, or at its next one; by force where that is late."""
        if not self._done.done():
            self._review.answer(False)
            self._thread.join(END_SECONDS)
        if not self._done.done():
            self._review.clear()


def _still_there(sweep: Sweep, pointer: Pointer) -> str:
    """The checkpoint of another trial, or a later one of it where that is gone."""
    options = sweep.assignment.options
    if exists(join(pointer.checkpoint, "meta.json"), options):
        return pointer.checkpoint
    folder = join(sweep.assignment.run_folder, "train", pointer.role)
    fs, path = filesystem(folder, options)
    whole = sorted(Path(found).parent.name for found in fs.glob(f"{path}/images-*/meta.json"))
    return join(folder, whole[-1]) if whole else pointer.checkpoint
