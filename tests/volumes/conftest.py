"""Small volumes whose every voxel is known, written by the formats' own libraries, and the check of an error line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest

from metgan_dist.errors import UserError


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
def voxels() -> np.ndarray:
    """uint16 (z, y, x) of 5 x 20 x 30, no two voxels alike and none 0."""
    return np.arange(1, 5 * 20 * 30 + 1, dtype=np.uint16).reshape(5, 20, 30)
