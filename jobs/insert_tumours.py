"""Tumours put into volumes, pasted or harmonised by a SinGAN: a data set of volumes with their labels."""

import sys

from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import run_job

PURPOSE = "Put tumours into the volumes at --data.path; started again by name, it continues."


def work(command: Command) -> str:
    """A data set of volumes, as the recipe's section `insertion` asks."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.synthesis.insertion import insert_tumours

    return insert_tumours(command)


if __name__ == "__main__":
    sys.exit(run_job("insert_tumours.py", PURPOSE, work))
