"""Pretrain the segmentor that MetGAN keeps frozen (`--method.segmentor` of train_metgan.py takes its checkpoint)."""

import sys

from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import run_job

PURPOSE = "Train a segmentor on the real tiles of a recipe."


def work(command: Command) -> str:
    """Tiles, then one segmentor."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.main_job import check_segmentor_training, pretrain_segmentor
    from metgan_dist.runs.open_run import run_recipe

    return run_recipe(command, "train_segmentor", pretrain_segmentor, check=check_segmentor_training)


if __name__ == "__main__":
    sys.exit(run_job("train_segmentor.py", PURPOSE, work))
