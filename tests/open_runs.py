"""An open run without an MLflow store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from metgan_dist.runs.open_run import OpenRun


class Kept(OpenRun):
    """An open run whose records go nowhere but to its folder."""

    @contextmanager
    def log(self) -> Iterator[Self]:
        """Itself, as the log."""
        yield self

    def content(self, content: bytes, name: str) -> None:
        """Nowhere."""

    def dataset(self, *facts: Any) -> None:
        """Nowhere."""
