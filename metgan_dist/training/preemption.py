"""Whether a machine of this training is about to be taken away, so that all of its workers save in time."""

from __future__ import annotations

from collections.abc import Callable

import ray.train


class Preemption:
    """True once for each machine that goes, and on all ranks at the same call; every rank has to ask equally often.

    Ray hears of it from the provider, from `ray drain-node`, or from spot_notice.py, and replaces the worker group when
    the machine's time is up.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._known: set[str] = set()

    def __call__(self) -> bool:
        info = ray.train.get_preemption_info()
        if info is None or set(info.preempted_node_ids) <= self._known:
            return False
        self._known |= set(info.preempted_node_ids)
        self._say(f"a machine is taken away, with {len(info.preempted_ranks)} of the workers: saving")
        return True
