"""Compare trained runs on the test tiles that they share (scores, tests, a table, a grid), or score a reader sheet."""

import sys

from metgan_dist.runs.command_line import Command, JobFlag
from metgan_dist.runs.job import run_job

PURPOSE = "Score trained runs on their test tiles and compare them in a table; or score a filled-in reader sheet."
RUNS = JobFlag("runs", "RUN,RUN...", "runs of train_metgan.py: names under storage.path, folders, or MLflow run ids")

SHEET = JobFlag("sheet", "FILE", "instead of runs: a reader sheet of insert_tumours.py that was filled in")
ANSWERS = JobFlag("answers", "FILE", "its answers; default: where insert_tumours.py wrote them, beside its folder")


def work(command: Command) -> str:
    """Checks first, then the evaluation as a run of its own."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.evaluation.evaluation import Evaluation
    from metgan_dist.evaluation.reading import Reading
    from metgan_dist.runs.open_run import run_recipe

    by_sheet = command.own["sheet"] or command.own["answers"]
    evaluation = Reading.planned(command) if by_sheet else Evaluation.planned(command)
    return run_recipe(command, "evaluate", evaluation.carry_out, evaluation.tags)


if __name__ == "__main__":
    sys.exit(run_job("evaluate.py", PURPOSE, work, own=[RUNS, SHEET, ANSWERS]))
