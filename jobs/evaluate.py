"""Compare trained runs on the test tiles that they share: scores with intervals and tests, a table, a grid."""

import sys

from metgan_dist.runs.command_line import Command, JobFlag
from metgan_dist.runs.job import run_job

PURPOSE = "Score trained runs on their test tiles and compare them in a table."
RUNS = JobFlag("runs", "RUN,RUN...", "runs of train_metgan.py: names under storage.path, folders, or MLflow run ids")


def work(command: Command) -> str:
    """Checks first, then the evaluation as a run of its own."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.evaluation.evaluation import Evaluation
    from metgan_dist.runs.open_run import run_recipe

    evaluation = Evaluation.planned(command)
    return run_recipe(command, "evaluate", evaluation.carry_out, evaluation.tags)


if __name__ == "__main__":
    sys.exit(run_job("evaluate.py", PURPOSE, work, own=[RUNS]))
