"""One Ray cluster for all of pytest's processes, in a process of its own that ends with the session, however it ends.

Run as a script it is that process: `shared_cluster.py ADDRESS_FILE OWNER`, where OWNER is the process to end with.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import psutil
import ray
from filelock import FileLock
from ray._private.authentication.authentication_token_setup import enable_token_auth_by_default
from servers import LONG_ENOUGH, wait_until

from metgan_dist.cluster.joining import OWN_CLUSTER, OWN_TRAININGS

CPUS = 8  # logical ones, whatever the machine has
QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}


def join_cluster(folder: Path, owner: int) -> str:
    """Connect this process to the cluster that the session keeps in `folder`, started by whoever is first."""
    os.environ.update(OWN_CLUSTER | OWN_TRAININGS)  # as on the cluster that a job starts for itself
    enable_token_auth_by_default()  # which Ray does for who starts a cluster, not for who joins one
    known = folder / "cluster"
    with FileLock(folder / "cluster.lock"):
        if not known.exists():
            command = [sys.executable, __file__, str(known), str(owner)]
            path = os.pathsep.join(filter(None, sys.path))  # Ray's processes find what the tests' find
            log = folder / "cluster.log"
            with log.open("wb") as out:
                process = subprocess.Popen(
                    command, stdout=out, stderr=out, start_new_session=True, env={**os.environ, "PYTHONPATH": path}
                )
            wait_until(known.exists, log.read_text, LONG_ENOUGH, process)
    address = known.read_text()
    ray.init(address=address, **QUIET)
    return address


def _keep_cluster(known: Path, owner: psutil.Process) -> None:
    """A cluster until the owner has ended; Ray ends its own processes with this one, should it be killed."""
    ray.init(address="local", num_cpus=CPUS, include_dashboard=False, **QUIET)
    written = known.with_suffix(".new")
    written.write_text(ray.get_runtime_context().gcs_address)
    written.rename(known)
    owner.wait()
    ray.shutdown()


if __name__ == "__main__":
    _keep_cluster(Path(sys.argv[1]), psutil.Process(int(sys.argv[2])))
