"""What each Ray Train worker is started with.

Apart from the worker itself, since Ray's own processes load this too, and would load torch and all for nothing.
"""

from __future__ import annotations

import logging
from typing import Any


def enter(config: dict[str, Any]) -> None:
    """Train, as config["assignment"] says."""
    from metgan_dist.cluster.progress import worker_voice
    from metgan_dist.errors import UserError, understood
    from metgan_dist.storage import one_line
    from metgan_dist.training.team import RayTeam
    from metgan_dist.training.worker import work

    logging.getLogger("ray").setLevel(logging.ERROR)
    assignment = config["assignment"]
    say = worker_voice(assignment.queue)
    team = RayTeam(assignment, say)
    try:
        work(assignment, team, say)
    except Exception as error:
        cause = understood(error)
        if team.rank == 0 and not isinstance(cause, UserError):
            reason = f"{type(cause).__name__}: {one_line(cause)}"
            say(f"{assignment.role}: a worker failed ({reason}); it restarts if it may")
        raise
