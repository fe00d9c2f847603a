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
    from metgan_dist.cluster.joining import OWN_CLUSTER, OWN_TRAININGS

    os.environ.update(OWN_CLUSTER | OWN_TRAININGS)  # as on the cluster that a job starts for itself
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="session")
def segmentors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Fields with an untrained segmentor and judge for tiny runs, which then need not train any."""
    from untrained import write_untrained

    from metgan_dist.recipe import Recipe

    method = {"name": "segmentor", "segmentor_width": 0.05}
    recipe = Recipe.model_validate({"method": method, "tiles": {"size": [64]}})
    written = write_untrained(tmp_path_factory.mktemp("segmentor"), recipe)
    return {"method__segmentor": written, "method__judge": written}
