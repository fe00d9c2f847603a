"""Whether synthetic tiles help: segmentors trained fold by fold on a mixture, scored on tiles that nothing has seen."""

import sys
from functools import partial
from pathlib import Path

from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import run_job

PURPOSE = "Train a segmentor on every fold of real and synthetic tiles, and score them lesion by lesion."


def work(command: Command) -> str:
    """Checks first, then the cross-validation as a run of its own, whose folds are runs of train_segmentor.py."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.main_job import check_paired_tiles
    from metgan_dist.runs.open_run import run_recipe
    from metgan_dist.segmentation.cross_validation import CrossValidation

    planned = CrossValidation.planned(command, Path(__file__).with_name("train_segmentor.py"))
    return run_recipe(
        command, "segment_folds", planned.carry_out, check=partial(check_paired_tiles, needed=[("tumour", "label")])
    )


if __name__ == "__main__":
    sys.exit(run_job("segment_folds.py", PURPOSE, work))
