"""MLflow: runs, metrics, pictures and lineage. The only part of the package that knows it.

The driver checks the server and creates the run; whoever holds the run's id logs to it through a `RunLogger`, which
writes to a journal on disk first and sends from there. A server that goes away therefore delays what is logged and
loses none of it.
"""

from metgan_dist.tracking.credentials import Credentials
from metgan_dist.tracking.logger import STOPPED, RunLogger, Status, end_run, replay
from metgan_dist.tracking.queries import LoggedDataset, LoggedRun, logged_run, nested_runs, runs_with_dataset
from metgan_dist.tracking.runs import find_run, resume_run, run_page, run_tags, start_run
from metgan_dist.tracking.server import check_server, tracking_uri

__all__ = [
    "STOPPED",
    "Credentials",
    "LoggedDataset",
    "LoggedRun",
    "RunLogger",
    "Status",
    "check_server",
    "end_run",
    "find_run",
    "logged_run",
    "nested_runs",
    "replay",
    "resume_run",
    "run_page",
    "run_tags",
    "runs_with_dataset",
    "start_run",
    "tracking_uri",
]
