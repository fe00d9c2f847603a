"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Two test processes share two cores; this must stand before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the session's one local Ray cluster, which this process has joined."""
    ray = pytest.importorskip("ray")
    from shared_cluster import join_cluster

    folder, owner = tmp_path_factory.getbasetemp(), os.getpid()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder, owner = folder.parent, os.getppid()
    yield join_cluster(folder, owner)
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
