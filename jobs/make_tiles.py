"""Cut volumes into training tiles with splits and statistics, once for all jobs that use them."""

import sys

from metgan_dist.experiment import Experiment, prepare_tiles, run_experiment
from metgan_dist.job import run_job

PURPOSE = "Cut the volumes of a recipe into tiles; other jobs take the folder as --data.path."


def work(experiment: Experiment) -> None:
    """Tiles, and nothing else."""
    prepare_tiles(experiment)


if __name__ == "__main__":
    sys.exit(run_job("make_tiles.py", PURPOSE, lambda command: run_experiment(command, "make_tiles", work)))
