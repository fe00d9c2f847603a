"""MLflow: runs, metrics, pictures and lineage. The only part of the package that knows it.

The driver checks the server and creates the run; whoever holds the run's id logs to it through a `RunLogger`, which
writes to a journal on disk first and sends from there. A server that goes away therefore delays what is logged and
loses none of it.
"""

from metgan_dist.tracking.logger import RunLogger, end_run, replay
from metgan_dist.tracking.runs import find_run, resume_run, run_tags, start_run
from metgan_dist.tracking.server import check_server, tracking_uri

__all__ = [
    "RunLogger",
    "check_server",
    "end_run",
    "find_run",
    "replay",
    "resume_run",
    "run_tags",
    "start_run",
    "tracking_uri",
]
