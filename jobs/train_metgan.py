"""Volumes in, a trained MetGAN with its scores and pictures in MLflow out."""

import sys

from metgan_dist.command_line import Command
from metgan_dist.job import run_job

PURPOSE = "Train a generator on volumes or prepared tiles, and score it on what it never saw."


def work(command: Command) -> str:
    """Tiles, segmentor, judge, the method, and its scores, under one run."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.experiment import run_experiment, train_method

    return run_experiment(command, "train_metgan", train_method)


if __name__ == "__main__":
    sys.exit(run_job("train_metgan.py", PURPOSE, work))
