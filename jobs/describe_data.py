"""Print what is understood of a data set, as the dataset.yaml that it amounts to, and check all of its volumes."""

import sys

from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import run_job

PURPOSE = "Describe the data set at --data.path and read all of it: every volume a line, every mistake a line."


def work(command: Command) -> str:
    """A report and pictures; there is no run."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.inspection.describe import describe

    return describe(command)


if __name__ == "__main__":
    sys.exit(run_job("describe_data.py", PURPOSE, work))
