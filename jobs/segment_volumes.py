"""How well a trained segmentor finds labels in whole test volumes, as they are or translated into its domain first."""

import sys

from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import run_job

PURPOSE = "Score a trained segmentor on whole test volumes, seen as they are or through a trained translator."


def work(command: Command) -> str:
    """Nothing is trained: models are loaded, and what they find is joined, scored and told patient by patient."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.evaluation.segmented_volumes import check_segmented, score_segmented, segmented_tags
    from metgan_dist.runs.open_run import run_recipe

    tags = segmented_tags(command.recipe)
    return run_recipe(command, "segment_volumes", score_segmented, tags, check_segmented)


if __name__ == "__main__":
    sys.exit(run_job("segment_volumes.py", PURPOSE, work))
