"""Whether synthetic tiles help: segmentors trained fold by fold on a mixture, scored on tiles that nothing has seen."""

import sys
from pathlib import Path

from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import run_job

PURPOSE = "Train a segmentor on every fold of real and synthetic tiles, and score them lesion by lesion."


def work(command: Command) -> str:
    """Checks first, then the cross-validation as a run of its own, whose folds are runs of train_segmentor.py."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.runs.open_run import run_recipe
    from metgan_dist.segmentation.cross_validation import CrossValidation, check_folds

    planned = CrossValidation.planned(command, Path(__file__).with_name("train_segmentor.py"))
    return run_recipe(command, "segment_folds", planned.carry_out, check=check_folds)


if __name__ == "__main__":
    sys.exit(run_job("segment_folds.py", PURPOSE, work))
