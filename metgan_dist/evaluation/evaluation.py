"""What evaluate.py does: compare finished runs on their common test tiles, after checking that they can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metgan_dist import tracking
from metgan_dist.errors import UserError
from metgan_dist.evaluation.judges import judges_for
from metgan_dist.evaluation.report import Entry, compare_entries, costs, write_report
from metgan_dist.evaluation.runs import TrainedRun, find_runs, shared_test_tiles
from metgan_dist.evaluation.scoring import unusable_scores
from metgan_dist.evaluation.subject import Subject, named_scores
from metgan_dist.lineage import check_starts
from metgan_dist.lineage.records import COMPARED
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.tasks.translation import FIDELITY


@dataclass(frozen=True)
class Evaluation:
    """Runs that can be compared, and how."""

    runs: Sequence[TrainedRun]
    subject: Subject
    reference: str

    @staticmethod
    def planned(command: Command) -> Evaluation:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit."""
        recipe = command.recipe
        if recipe.data.path is not None:
            raise UserError("data.path: the runs know their test tiles; leave it out")
        runs = find_runs(command.own["runs"], recipe)
        task, rows = shared_test_tiles(runs, recipe)
        uri = tracking.tracking_uri(recipe.tracking, recipe.storage)
        for run in runs:
            check_starts("--runs", task.tiles, run.folder, run.name, uri)
        settings = named_scores(task, recipe.scores)
        skipped = unusable_scores(settings.names, settings.missing_weights, len(task.tiles.shape))
        judges = judges_for(task, settings.names, runs, recipe)
        if FIDELITY in settings.names and "judge" not in judges:
            skipped[FIDELITY] = f"{runs[0].name} has no judge, because no tumour image has a label"
        subject = Subject(task, rows, judges, settings, skipped)
        return Evaluation(runs, subject, _reference(runs, recipe.scores.reference))

    @property
    def tags(self) -> dict[str, str]:
        """For the evaluation's MLflow run: which runs it compared."""
        return {f"{COMPARED}{run.name}": str(run.result["mlflow_run_id"]) for run in self.runs}

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job."""
        subject, artefacts = self.subject, opened.result.artefacts
        tiles = subject.task.tiles
        say(f"tiles: {len(subject.rows)} test tiles of {tiles.uri}")
        for role, judge in subject.judges.items():
            say(f"{role}: {judge}")
        artefacts |= subject.judges
        artefacts |= {"tiles": tiles.uri, "reference": self.reference}
        artefacts["runs"] = {run.label: run.folder for run in self.runs}
        opened.result.tiles = {"test": len(subject.rows)}
        with opened.log() as log:
            log.dataset(f"tiles-{tiles.digest[:8]}", tiles.uri, tiles.digest, "test", len(subject.rows))
        entries = [Entry(run.label, run) for run in self.runs]
        title = f"Comparison on {len(subject.rows)} test tiles"
        write_report(opened, compare_entries(opened, entries, subject, self.reference, title), [costs(entries)])


def _reference(runs: Sequence[TrainedRun], wanted: str | None) -> str:
    """The label of the run that the others are tested against."""
    for run in runs:
        if wanted in (run.name, run.label, run.method):
            return run.label
    if wanted is not None:
        raise UserError(f"scores.reference: {wanted!r} is none of the runs {', '.join(run.name for run in runs)}")
    return next((run.label for run in runs if run.method == "metgan"), runs[0].label)
