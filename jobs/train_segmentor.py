"""Pretrain the segmentor that MetGAN keeps frozen (`--method.segmentor` of train_metgan.py takes its checkpoint)."""

import sys

from metgan_dist.experiment import Experiment, prepare_tiles, run_experiment, train_segmentor
from metgan_dist.job import run_job

PURPOSE = "Train a segmentor on the real tiles of a recipe."


def work(experiment: Experiment) -> None:
    """Tiles, then one segmentor."""
    trained = train_segmentor(experiment, prepare_tiles(experiment), "segmentor", 0)
    experiment.result.artefacts |= {
        "best_checkpoint": trained.best,
        "last_checkpoint": trained.last,
        "images": trained.images,
        "stopped_early": trained.stopped_early,
    }
    experiment.result.resources = trained.resources


if __name__ == "__main__":
    sys.exit(run_job("train_segmentor.py", PURPOSE, lambda command: run_experiment(command, "train_segmentor", work)))
