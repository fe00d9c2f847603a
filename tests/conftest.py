"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from metgan_dist.errors import UserError

# Two test processes share two cores; this must stand before numpy and torch are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A test waits for Ray's processes, which of Ray's own choice (15) give way to whatever else the machine does: beside
# two other busy processes they get next to nothing, and a test of seconds takes minutes.
os.environ.setdefault("RAY_worker_niceness", "0")


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


@contextmanager
def _mistake(*parts: str, kind: type[UserError] = UserError) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(parts[0]), line
    for part in parts[1:]:
        assert part in line, line


@pytest.fixture(scope="session")
def mistake() -> Callable[..., AbstractContextManager[None]]:
    """`with mistake(start, *parts, kind=DamagedFile)`: an error of one line that starts so and holds the parts."""
    return _mistake


@pytest.fixture(scope="session")
def voxels() -> Any:
    """uint16 (z, y, x) of 5 x 20 x 30, no two voxels alike and none 0."""
    import numpy as np

    return np.arange(1, 5 * 20 * 30 + 1, dtype=np.uint16).reshape(5, 20, 30)
