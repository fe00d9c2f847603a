"""Volumes in, a trained MetGAN with its scores and pictures in MLflow out."""

import sys

from metgan_dist.experiment import run_experiment, train_method
from metgan_dist.job import run_job

PURPOSE = "Train a generator on volumes or prepared tiles, and score it on what it never saw."

if __name__ == "__main__":
    sys.exit(run_job("train_metgan.py", PURPOSE, lambda command: run_experiment(command, "train_metgan", train_method)))
