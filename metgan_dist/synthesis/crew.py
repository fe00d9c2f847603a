"""How many replicas of the generator run at once, and what each takes of the cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.errors import UserError
from metgan_dist.recipe import Insertion, Segmentation, Synthesis
from metgan_dist.runs.command_line import Command

# What composing and writing tiles need beside the generators, of all CPUs.
DATA_SHARE = 0.25
LEAST_CPUS = 0.05
DATA_TASKS_AT_ONCE = 2


@dataclass(frozen=True)
class Crew:
    """Replicas with their share of CPUs or GPUs (Ray's logical ones), and the tasks that feed them and write."""

    replicas: int
    cpus: float
    gpus: float
    data_tasks: int
    data_cpus: float

    @property
    def device(self) -> str:
        """The torch device on which each replica generates."""
        return "cuda" if self.gpus else "cpu"

    @staticmethod
    def of(settings: Synthesis | Insertion | Segmentation, plan: ResourcePlan, free: Mapping[str, float]) -> Crew:
        """As many replicas as have room: one per GPU (or per share of one, as the plan has it), else per CPU thread.

        Args:
            settings: `replicas` and `threads`.
            plan: of the job; it says whether GPUs are used, and how much of one.
            free: what the cluster has to give now (`ray.available_resources`).

        Raises UserError when the wanted number does not fit the cluster.
        """
        cpus = max(free.get("CPU", 0.0), plan.cpus_per_worker)
        if plan.gpus_per_worker:
            gpus = max(free.get("GPU", 0.0), plan.gpus_per_worker)
            room = max(1, int(gpus / plan.gpus_per_worker + 1e-6))
            replicas = room if settings.replicas == "auto" else settings.replicas
            share = min(plan.gpus_per_worker, gpus / replicas)
            data = cpus
            crew_cpus = 0.0
        else:
            replicas = max(1, int(cpus // settings.threads)) if settings.replicas == "auto" else settings.replicas
            data = DATA_SHARE * cpus
            share, crew_cpus = 0.0, _floor(min(settings.threads, (cpus - data) / replicas))
            if crew_cpus < LEAST_CPUS:
                raise UserError(
                    f"{_section(settings)}.replicas: {replicas} replicas do not fit {cpus:g} free CPUs; use "
                    f"{max(1, int(cpus // settings.threads))}, or auto"
                )
        tasks = max(DATA_TASKS_AT_ONCE, int(data / 2))
        return Crew(replicas, crew_cpus, _floor(share), tasks, _floor(min(1.0, data / (2 * tasks))))

    def __str__(self) -> str:
        each = f"{self.gpus:g} GPU" if self.gpus else f"{self.cpus:g} CPU"
        return f"{self.replicas} replica(s) of {each}; {self.data_tasks} tasks each compose and write"


def _section(settings: Synthesis | Insertion | Segmentation) -> str:
    return type(settings).__name__.lower()


def _floor(share: float) -> float:
    """Rounded down to what Ray counts in, so that all shares together are never more than there is."""
    return int(share * 1000) / 1000


def quiet_pools(command: Command) -> None:
    """Keep Ray's core from warning on standard error of each pool of actors that Ray Data starts, unless debugging.

    Before the job joins a cluster, since Ray reads it then.
    """
    if not command.debug:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
