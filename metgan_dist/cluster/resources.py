"""What a run takes of a cluster, worked out before any work starts.

Workers, the tasks that feed them and other people's jobs share one cluster. Ray waits without a word for
resources that never come, so the plan is computed from what the cluster has, printed, and refused when it cannot fit.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from metgan_dist.errors import UserError
from metgan_dist.recipe import Scaling

LEAST_WORKER_CPUS = 0.25


@dataclass(frozen=True)
class ResourcePlan:
    """How a training run is laid out on a cluster; CPUs and GPUs are Ray's logical ones.

    `tiles_within`: a worker reserves the CPUs of its tile tasks with its own and keeps them on its node. Runs side by
    side then cannot hold the CPUs that another's tasks wait for, even on a cluster that has lost a node.
    """

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    data_cpus: float
    cluster_cpus: float
    cluster_gpus: float
    shares_cores: bool = False
    tiles_within: bool = False

    @property
    def reserved(self) -> dict[str, float]:
        """What Ray sets aside for one worker."""
        cpus = round(self.cpus_per_worker + (self.data_cpus_per_worker if self.tiles_within else 0.0), 3)
        return {"CPU": cpus, **({"GPU": self.gpus_per_worker} if self.gpus_per_worker else {})}

    @property
    def backend(self) -> str:
        """Collective backend: NCCL refuses two ranks on one GPU, so shared GPUs use gloo."""
        return "nccl" if self.gpus_per_worker >= 1 else "gloo"

    @property
    def data_cpus_per_worker(self) -> float:
        """What the tile tasks of one worker may use together."""
        return round(self.data_cpus / self.workers, 3)

    @property
    def threads_per_worker(self) -> int:
        """Arithmetic threads of one CPU worker; fixed by the plan so that a resumed run adds in the same order.

        All cores, in equal parts; or, where the recipe says how many CPUs a worker takes, these: others have the rest.
        """
        if self.shares_cores:
            return max(1, int(self.cpus_per_worker))
        cores = min(os.cpu_count() or 1, int(self.cluster_cpus) or 1)
        return max(1, cores // self.workers)

    def __str__(self) -> str:
        return (
            f"{self.workers} worker(s) x {self.cpus_per_worker:g} CPU, {self.gpus_per_worker:g} GPU; "
            f"{self.data_cpus:g} CPU for tiles; cluster: {self.cluster_cpus:g} CPU, {self.cluster_gpus:g} GPU"
        )


def plan_resources(scaling: Scaling, cluster_cpus: float, cluster_gpus: float) -> ResourcePlan:
    """Lay `scaling.workers` out on a cluster of so many CPUs and GPUs, keeping room for the tile tasks.

    Only `scaling.share` of the cluster is planned with: runs side by side that each counted on all of it would wait for
    one another's tile tasks for ever.

    Raises UserError naming the field of `scaling` that asks for more than the cluster has.
    """
    cluster_cpus, cluster_gpus = cluster_cpus * scaling.share, cluster_gpus * scaling.share
    workers = scaling.processes
    if (scaling.min_workers or 1) > workers:
        raise UserError(f"scaling.min_workers: {scaling.min_workers} is more than scaling.workers, {workers}")
    if workers > cluster_cpus:
        raise UserError(
            f"scaling.workers: {workers} workers do not fit a cluster of {cluster_cpus:g} CPU(s); "
            f"set it to {max(1, int(cluster_cpus))} or less, or start on a larger cluster"
        )
    gpus = _gpus_per_worker(scaling, cluster_gpus)
    least_data = min(1.0, cluster_cpus / 2)
    if scaling.cpus_per_worker == "auto":
        share = (cluster_cpus - least_data) / workers
        cpus = round(share, 3) if share < 1 else (1.0 if gpus else float(int(share)))
    else:
        cpus = float(scaling.cpus_per_worker)
    data = round(cluster_cpus - cpus * workers, 3)
    if cpus < LEAST_WORKER_CPUS or data < LEAST_WORKER_CPUS:
        raise UserError(
            f"scaling.cpus_per_worker: {workers} workers of {cpus:g} CPU leave {data:g} of the cluster's "
            f"{cluster_cpus:g} CPUs for reading tiles; lower scaling.workers or scaling.cpus_per_worker"
        )
    return ResourcePlan(workers, cpus, gpus, data, cluster_cpus, cluster_gpus, scaling.cpus_per_worker != "auto")


def _gpus_per_worker(scaling: Scaling, cluster_gpus: float) -> float:
    if scaling.gpus_per_worker == "auto":
        return 1.0 if cluster_gpus >= scaling.processes else round(cluster_gpus / scaling.processes, 3)
    asked = float(scaling.gpus_per_worker)
    if asked < 0 or asked * scaling.processes > cluster_gpus:
        raise UserError(
            f"scaling.gpus_per_worker: {scaling.processes} worker(s) of {asked:g} GPU do not fit a cluster of "
            f"{cluster_gpus:g} GPU(s); use auto, or a share that fits"
        )
    return asked
