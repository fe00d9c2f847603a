"""A trained segmentor on whole volumes: it labels them as they lie on disk, or is scored on test tiles of volumes."""

import sys

from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import run_job

PURPOSE = (
    "Label the volumes at --data.path by a trained segmentor; of tiles, score it on whole volumes of the test split. "
    "Images may go through a trained translator first."
)


def work(command: Command) -> str:
    """Nothing is trained: models are loaded, and what they find is joined, written or scored, and told."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.evaluation.segmented_volumes import check_segmented, score_segmented, segmented_tags
    from metgan_dist.runs.open_run import is_tile_set, run_recipe
    from metgan_dist.synthesis.labelled_volumes import label_volumes

    tags = segmented_tags(command.recipe)
    if not is_tile_set(command.recipe):
        return label_volumes(command, tags)
    return run_recipe(command, "segment_volumes", score_segmented, tags, check_segmented)


if __name__ == "__main__":
    sys.exit(run_job("segment_volumes.py", PURPOSE, work))
