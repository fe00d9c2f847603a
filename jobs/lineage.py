"""Print where a score or a data set comes from, back to the volumes, and what a data set was used for."""

import sys

from metgan_dist.runs.command_line import Command, JobFlag
from metgan_dist.runs.job import run_job

PURPOSE = "Print the chain from a run or data set back to the volumes, and name the first link that is broken."
REFERENCE = JobFlag(
    "reference",
    "RUN",
    "a run (name under storage.path, folder, or MLflow run id), or a data set (folder of tiles, or digest)",
    positional=True,
)
FORMAT = JobFlag("format", "text|json", "indented text (default), or JSON")


def work(command: Command) -> str:
    """The chain is printed; there is no run, and no result."""
    # Imports of seconds, for which `--help` and a mistyped flag need not wait.
    from metgan_dist.lineage.trace import trace

    return trace(command)


if __name__ == "__main__":
    sys.exit(run_job("lineage.py", PURPOSE, work, own=[REFERENCE, FORMAT]))
