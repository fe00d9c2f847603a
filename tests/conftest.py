"""Fixtures for all tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

# Two test processes share two cores; this must stand before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """One local Ray cluster for the whole session, of four logical CPUs whatever the machine has; its address."""
    ray = pytest.importorskip("ray")
    from metgan_dist.training.cluster import KEEP_IDLE

    os.environ.update(KEEP_IDLE)  # as on the cluster that a job starts for itself
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
