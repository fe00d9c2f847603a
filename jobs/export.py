"""Tiles or volumes as other tools read them: nnU-Net's raw data, or folders of NIfTI, TIFF, PNG or OME-Zarr."""

import sys

from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import run_job

PURPOSE = (
    "Write the tile set, or the data set of volumes, at --data.path in the form of another tool (--export.format)."
)


def work(command: Command) -> str:
    """Files, with what is behind each of them."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.export.exporting import export

    return export(command)


if __name__ == "__main__":
    sys.exit(run_job("export.py", PURPOSE, work))
