"""Image-label pairs from a trained generator: a set of tiles with their origins, or a whole volume filled."""

import sys

from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import run_job

PURPOSE = "Generate a synthetic data set (or volume) by a trained generator; started again by name, it continues."


def work(command: Command) -> str:
    """A set of tiles or a filled volume, as the recipe asks."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.synthesis.synthesis import synthesize

    return synthesize(command)


if __name__ == "__main__":
    sys.exit(run_job("synthesize.py", PURPOSE, work))
