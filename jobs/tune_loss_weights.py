"""Search over the loss weights, or any field that changes a training: many small trials, and the best as a recipe."""

import sys

from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import run_job, say

PURPOSE = "Search over loss weights by Ray Tune; started again under its name, it continues."


def work(command: Command) -> str:
    """Checks first, then the sweep as a run of its own, whose trials are runs under it."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.runs.open_run import run_recipe
    from metgan_dist.tuning.child_run import JOB
    from metgan_dist.tuning.sweep import PlannedSweep

    planned = PlannedSweep.planned(command)
    result = run_recipe(command, JOB, planned.carry_out, check=planned.check)
    if command.dry_run:
        say(str(planned))
    return result


if __name__ == "__main__":
    sys.exit(run_job("tune_loss_weights.py", PURPOSE, work))
