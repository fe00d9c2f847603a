"""What evaluate.py does: compare finished runs on their common test tiles, after checking that they can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metgan_dist.errors import UserError
from metgan_dist.evaluation.report import Entry, compare_entries, costs, write_report
from metgan_dist.evaluation.runs import TrainedRun, find_runs, shared_test_tiles
from metgan_dist.evaluation.scoring import unusable_scores
from metgan_dist.evaluation.subject import Subject, named_scores
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.trained import check_segmentor


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
        settings = named_scores(task, recipe.scores)
        skipped = unusable_scores(settings.names, settings.missing_weights, len(task.tiles.shape))
        judge = recipe.method.judge or runs[0].judge
        if judge is not None:
            judge = check_segmentor("method.judge", judge, runs[0].recipe)
        elif "label_fidelity" in settings.names:
            skipped["label_fidelity"] = f"{runs[0].name} has no judge, because no tumour image has a label"
        subject = Subject(task, rows, judge, settings, skipped)
        return Evaluation(runs, subject, _reference(runs, recipe.scores.reference))

    @property
    def tags(self) -> dict[str, str]:
        """For the evaluation's MLflow run: which runs it compared."""
        return {f"evaluated.{run.name}": str(run.result["mlflow_run_id"]) for run in self.runs}

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job."""
        subject, artefacts = self.subject, opened.result.artefacts
        tiles = subject.task.tiles
        say(f"tiles: {len(subject.rows)} test tiles of {tiles.uri}")
        if subject.judge is not None:
            say(f"judge of label fidelity: {subject.judge}")
            artefacts["judge"] = subject.judge
        artefacts |= {"tiles": tiles.uri, "reference": self.reference}
        artefacts["runs"] = {run.label: run.folder for run in self.runs}
        opened.result.tiles = {"test": len(subject.rows)}
        with opened.log() as log:
            log.dataset(f"tiles-{tiles.digest[:8]}", tiles.uri, tiles.digest, "test", len(subject.rows))
        entries = [Entry(run.label, run) for run in self.runs]
        title = f"Comparison on {len(subject.rows)} test tiles"
        comparison, table, grid = compare_entries(opened, entries, subject, self.reference, title)
        write_report(opened, comparison, table, [costs(entries)], grid)


def _reference(runs: Sequence[TrainedRun], wanted: str | None) -> str:
    """The label of the run that the others are tested against."""
    for run in runs:
        if wanted in (run.name, run.label, run.method):
            return run.label
    if wanted is not None:
        raise UserError(f"scores.reference: {wanted!r} is none of the runs {', '.join(run.name for run in runs)}")
    return next((run.label for run in runs if run.method == "metgan"), runs[0].label)
