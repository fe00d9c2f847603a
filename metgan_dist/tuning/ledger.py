"""What became of each trial: written as Tune's loop goes on, and kept with Tune's own state.

The ledger is a Tune callback, so that a sweep that is started again has it back. It says what happens in a line each,
and ends the trials' MLflow runs. What Tune keeps of the trials themselves may be newer or older than it, and than the
searcher (tuning/searchers.py): before the first step both take up what the trials say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ray.actor import ActorHandle
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.utils import flatten_dict

from metgan_dist import tracking
from metgan_dist.cluster.progress import duration
from metgan_dist.training.assignment import Assignment
from metgan_dist.training.review import Review
from metgan_dist.tuning.child_run import child_of
from metgan_dist.tuning.search import FIRST, Halving, halving_state, restore_halving
from metgan_dist.tuning.searchers import Searcher
from metgan_dist.tuning.space import shown
from metgan_dist.tuning.trial import Objective

LONGEST_REASON = 300
VERDICTS: dict[str, tracking.Status] = {
    "whole": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "running": tracking.STOPPED,  # together with the sweep
}
Outcome = Literal["running", "whole", "stopped", "failed"]
_KEPT = ("images", "began", "role", "seconds", "discriminator_loss", "low_reports", "stopped", "stopped_early")


@dataclass
class TrialRecord:
    """A trial: its values, one row a report, and how it ended.

    A row holds `images`, `seconds` and `validation/<score>`; its `role` names the training, which with PBT changes, and
    `began` the images that this training took over. `outcome`: whole, or stopped before its length or failed, and why.
    """

    name: str
    point: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    outcome: Outcome = "running"
    reason: str = ""

    @property
    def images(self) -> int:
        """How far it came, those that it took over from others included."""
        return int(self.rows[-1]["images"]) if self.rows else 0

    @property
    def processed(self) -> int:
        """Images that it trained on itself."""
        reached: dict[str, tuple[int, int]] = {}
        for row in self.rows:
            images = max(int(row["images"]), reached.get(row["role"], (0, 0))[0])
            reached[row["role"]] = images, int(row["began"])
        return sum(images - began for images, began in reached.values())

    @property
    def seconds(self) -> float:
        """Of training, validations included."""
        return float(max((row.get("seconds", 0.0) for row in self.rows), default=0.0))

    @property
    def is_own(self) -> bool:
        """Whether it is the one with the recipe's own values."""
        return self.name == FIRST

    def score(self, objective: Objective) -> float | None:
        """The last validation's; None where there is none, it is no number, or the trial came to nothing."""
        value = self.rows[-1].get(objective.key) if self.rows and "stopped" not in self.rows[-1] else None
        return value if value is not None and math.isfinite(value) else None


class Ledger(Callback):
    """Tune's callback; `records` by the trials' names."""

    def __init__(
        self,
        assignment: Assignment,
        objectives: Sequence[Objective],
        searcher: Searcher,
        scheduler: TrialScheduler,
        total: int,
        desk: ActorHandle,
        say: Callable[[str], None],
    ) -> None:
        self.records: dict[str, TrialRecord] = {}
        self._assignment, self._objectives = assignment, objectives
        self._searcher, self._scheduler, self._taken_up = searcher, scheduler, False
        self._total, self._desk, self._say = total, desk, say
        self._pool = ThreadPoolExecutor(1)
        self._closing: dict[str, Future[None]] = {}

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tune's hook; before the first step of all come the ends of trials that an earlier start did not note."""
        if self._taken_up:
            return
        self._taken_up = True
        self._searcher.take_up(trials)
        for trial in trials:
            if trial.status == Trial.TERMINATED and self._record(trial).outcome == "running":
                result = trial.last_result
                if "role" in result:
                    self.on_trial_result(iteration, trials, trial, result)
                if isinstance(self._scheduler, Halving):
                    self._scheduler.on_trial_complete(None, trial, flatten_dict(result))
                self.on_trial_complete(iteration, trials, trial)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune's hook."""
        known = str(trial) in self.records
        self._record(trial).outcome = "running"
        values = ", ".join(f"{name} {shown(value)}" for name, value in trial.config.items())
        self._say(f"{trial}: {'goes on' if known else 'starts'} with {values}")

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Tune's hook."""
        record = self._record(trial)
        row = {name: value for name, value in result.items() if name in _KEPT or name.startswith("validation/")}
        if record.rows and record.rows[-1]["role"] == row["role"] and record.rows[-1]["images"] == row["images"]:
            record.rows.pop()  # reported again by a trial that was continued
        record.rows.append(row)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune's hook."""
        record, tuning = self._record(trial), self._assignment.recipe.tuning
        last: dict[str, Any] = record.rows[-1] if record.rows else {"stopped": "ended without a report"}
        at = f"at {record.images} of {self._total} images"
        if "stopped" in last:
            self._end(record, "failed", str(last["stopped"]))
        elif record.images >= self._total:
            self._end(record, "whole", "")
        elif last["low_reports"] >= tuning.collapse_reports:
            low = f"loss below {tuning.collapse_loss:g} in {last['low_reports']} reports"
            self._end(record, "failed", f"discriminator collapsed ({low}) {at}")
        elif last.get("stopped_early"):
            self._end(record, "stopped", f"no better within training.patience, {at}")
        else:
            self._end(record, "stopped", f"{tuning.scheduler} {at}")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune's hook, when a trial has failed for the last time."""
        Review(self._desk, str(trial)).clear()  # its actor may be gone, and Ray Train's with it
        lines = (trial.get_error() or "no reason known").strip().splitlines()  # a traceback, whose end says it
        self._end(self._record(trial), "failed", lines[-1][:LONGEST_REASON])

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Wait until the MLflow runs of ended trials are ended, and of all where the sweep is stopped."""
        if error is not None:
            for record in self.records.values():
                if record.outcome == "running":
                    self._close(record)
        self._pool.shutdown(wait=True)
        for name, closing in self._closing.items():
            if problem := closing.exception():
                self._say(f"{name}: its MLflow run could not be ended ({problem}); the next start of the sweep does it")

    def get_state(self) -> dict[str, Any]:
        """What Tune keeps with its own state."""
        records = {name: asdict(record) for name, record in self.records.items()}
        return {"records": records, "halving": halving_state(self._scheduler)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Tune's hook of a sweep that is started again."""
        self.records = {name: TrialRecord(**record) for name, record in state["records"].items()}
        restore_halving(self._scheduler, state["halving"])
        for record in self.records.values():
            if record.outcome != "running":
                self._close(record)  # an earlier start may have died before it did so

    def _record(self, trial: Trial) -> TrialRecord:
        record = self.records.setdefault(str(trial), TrialRecord(str(trial), {}))
        record.point = dict(trial.config)
        return record

    def _end(self, record: TrialRecord, outcome: Outcome, reason: str) -> None:
        record.outcome, record.reason = outcome, reason
        scores = [(one.name, record.score(one)) for one in self._objectives]
        reached = ", ".join(f"{name} {score:.4f}" for name, score in scores if score is not None)
        how = {"whole": "done", "stopped": f"stopped: {reason}", "failed": f"ended: {reason}", "running": ""}[outcome]
        self._say(f"{record.name}: {how}{f' ({reached})' if reached else ''}, {duration(record.seconds)} of training")
        self._close(record)

    def _close(self, record: TrialRecord) -> None:
        """End the trial's MLflow run while Tune's loop goes on."""
        self._closing[record.name] = self._pool.submit(self._end_child, record)

    def _end_child(self, record: TrialRecord) -> None:
        """End the trial's MLflow run, if it has one; a second time changes nothing."""
        run, settings = self._assignment, self._assignment.recipe.tracking
        run_id = child_of(run.tracking_uri, run.mlflow_run_id, record.name)
        if run_id is None:
            return
        if record.outcome != "running":
            with tracking.RunLogger(
                run.tracking_uri, run_id, Path(run.spool), settings.patience, report=self._say
            ) as log:
                log.params({"outcome": record.outcome, "reason": record.reason or "-"})
        tracking.end_run(
            run.tracking_uri,
            run_id,
            VERDICTS[record.outcome],
            record.reason if record.outcome == "failed" else None,
            spool=Path(run.spool),
            patience=settings.patience,
            report=self._say,
        )
