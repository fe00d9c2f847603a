"""Make a table of the papers again on one's own data: carry out every row of a study, then compare them."""

import sys
from pathlib import Path

from metgan_dist.runs.command_line import Command, JobFlag
from metgan_dist.runs.job import run_job
from metgan_dist.studies.study import study_names

PURPOSE = "Carry out and compare all rows of a study; started again under its name, it continues."
STUDY = JobFlag("study", "NAME|PATH", f"which table: {', '.join(study_names())}, or a YAML file", needed=True)
ROWS = JobFlag("rows", "NAME,NAME...", "only these rows of the study; the others can follow under the same name")
TAKE = JobFlag("take", "STEP=RUN,...", "finished runs, by name or folder, in place of steps or rows of the study")


def work(command: Command) -> str:
    """Checks first, then the study as a run of its own, whose steps and rows are runs of other jobs."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.runs.open_run import run_recipe
    from metgan_dist.studies.runner import planned_study

    planned = planned_study(command, Path(__file__).parent)
    return run_recipe(command, "run_study", planned.carry_out, check=planned.check)


if __name__ == "__main__":
    sys.exit(run_job("run_study.py", PURPOSE, work, own=[STUDY, ROWS, TAKE], several_methods=True))
