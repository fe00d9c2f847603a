"""Volumes in, a trained MetGAN with its scores and pictures in MLflow out."""

import sys

from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import run_job

PURPOSE = "Train a generator on volumes or prepared tiles, and score it on what it never saw."


def work(command: Command) -> str:
    """Tiles, segmentor, judge, the method, and its scores, under one run."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.main_job import check_training, train_method
    from metgan_dist.runs.open_run import run_recipe

    return run_recipe(command, "train_metgan", train_method, check=check_training)


if __name__ == "__main__":
    sys.exit(run_job("train_metgan.py", PURPOSE, work))
