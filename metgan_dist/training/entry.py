"""What each Ray Train worker is started with.

Apart from the worker itself, since Ray's own processes load this too, and would load torch and all for nothing.
"""

from __future__ import annotations

from typing import Any


def enter(config: dict[str, Any]) -> None:
    """Train, as config["assignment"] says."""
    from metgan_dist.training.worker import work

    work(config["assignment"])
