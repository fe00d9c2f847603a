"""Cut volumes into training tiles with splits and statistics, once for all jobs that use them."""

import sys

from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import run_job

PURPOSE = "Cut the volumes of a recipe into tiles; other jobs take the folder as --data.path."


def work(command: Command) -> str:
    """Tiles, and nothing else."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.main_job import check_tiles, prepare_tiles
    from metgan_dist.runs.open_run import run_recipe

    return run_recipe(command, "make_tiles", prepare_tiles, check=check_tiles)


if __name__ == "__main__":
    sys.exit(run_job("make_tiles.py", PURPOSE, work))
