"""How many trials run side by side, and what each takes of the cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from metgan_dist.cluster.resources import LEAST_WORKER_CPUS, ResourcePlan
from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe

# Of a CPU: a training below it and its tile tasks would only slow each other down.
ROOM = 1.0
LEAST_ROOM = 2 * LEAST_WORKER_CPUS


@dataclass(frozen=True)
class Node:
    """A machine's logical CPUs and GPUs: a worker lies on one, and takes both there."""

    cpus: float
    gpus: float = 0.0


def plan_trials(recipe: Recipe, nodes: Sequence[Node]) -> tuple[int, ResourcePlan]:
    """How many trials to run at once on a cluster of these nodes, and the plan of each.

    A worker reserves the CPUs of its tile tasks with its own, on its node (`tiles_within`), so that trials side by side
    never hold what another's tasks wait for, whatever becomes of the cluster. GPUs are shared only where there are
    fewer of them than workers.

    Raises UserError naming `tuning.concurrent` or `scaling.workers` when that is more than the cluster has.
    """
    workers, asked = recipe.scaling.processes, recipe.tuning.concurrent
    cluster = _Cluster.of(recipe, nodes)
    most = min(cluster.places(_cpus_needed(recipe, LEAST_ROOM)), _places_by_gpu(recipe, cluster.gpus)) // workers
    has = f"a cluster of {cluster.cpus:g} CPU and {cluster.gpus:g} GPU"
    if most < 1:
        raise UserError(
            f"scaling.workers: a trial of {workers} worker(s) does not fit {has}; "
            "lower scaling.workers, scaling.cpus_per_worker or scaling.gpus_per_worker"
        )
    if asked == "auto":
        at_once = min(recipe.tuning.trials, _comfortable(recipe, cluster), most)
    elif asked > most:
        raise UserError(
            f"tuning.concurrent: {asked} trials of {workers} worker(s) do not fit {has} at once; at most {most} do, "
            "auto takes what has room"
        )
    else:
        at_once = min(recipe.tuning.trials, asked)
    return at_once, _each(recipe, cluster, at_once)


@dataclass(frozen=True)
class _Cluster:
    """The nodes that workers lie on, and `share` of what these have."""

    nodes: Sequence[Node]
    share: float

    @staticmethod
    def of(recipe: Recipe, nodes: Sequence[Node]) -> _Cluster:
        """A worker with a GPU lies where there is one: the CPUs of other nodes are none that it could have."""
        with_gpu = [node for node in nodes if node.gpus] if recipe.scaling.gpus_per_worker else []
        return _Cluster(with_gpu or list(nodes), recipe.scaling.share)

    @property
    def cpus(self) -> float:
        """The share of all nodes' CPUs."""
        return sum(node.cpus for node in self.nodes) * self.share

    @property
    def gpus(self) -> float:
        """The share of all nodes' GPUs."""
        return sum(node.gpus for node in self.nodes) * self.share

    def places(self, cpus: float) -> int:
        """Workers of so many CPUs that have room, each on one node."""
        # Thirds and tenths of a CPU do not add up exactly; three thirds are meant to fit.
        by_node = sum(int(node.cpus / cpus + 1e-6) for node in self.nodes)
        return min(by_node, int(self.cpus / cpus + 1e-6))

    def room(self, workers: int) -> float:
        """The most CPUs that each of so many workers can have, each on one node."""
        # The largest share that fits exhausts a node or the cluster's share, so no other need be tried.
        parts = {node.cpus / count for node in self.nodes for count in range(1, workers + 1)} | {self.cpus / workers}
        best = max(part for part in parts if part and self.places(part) >= workers)
        # Downwards, so that all of them together never take more than there is.
        return math.floor(1000 * best + 1e-6) / 1000


def _cpus_needed(recipe: Recipe, least: float) -> float:
    """By a worker with its tile tasks; `least` where the recipe leaves that to the plan."""
    given = recipe.scaling.cpus_per_worker
    return least if given == "auto" else float(given) + LEAST_WORKER_CPUS


def _places_by_gpu(recipe: Recipe, gpus: float) -> int:
    """Workers that the GPUs take, by the recipe's word: as many as there can be where it has none."""
    given = recipe.scaling.gpus_per_worker
    if given == "auto" or not given:
        return recipe.tuning.trials * recipe.scaling.processes
    per_gpu = int(1 / given + 1e-6) if given < 1 else 1 / given
    return int(gpus * per_gpu + 1e-6)


def _comfortable(recipe: Recipe, cluster: _Cluster) -> int:
    """Trials that have a CPU for each worker, and a GPU where there are any."""
    places = cluster.places(_cpus_needed(recipe, ROOM))
    if cluster.gpus and recipe.scaling.gpus_per_worker == "auto":
        places = min(places, int(cluster.gpus))
    return max(1, places // recipe.scaling.processes)


def _each(recipe: Recipe, cluster: _Cluster, at_once: int) -> ResourcePlan:
    workers, given = recipe.scaling.processes, recipe.scaling.cpus_per_worker
    room = cluster.room(workers * at_once)
    if given == "auto":
        # Reading tiles gets half of a small share, and of a large one no more than the CPU that it can use.
        data = min(1.0, room / 2)
        own = room - data
        # Threads are whole; a worker with a GPU needs one, to feed it.
        own = round(own, 3) if own < 1 else (1.0 if cluster.gpus else float(int(own)))
    else:
        own = float(given)
    data = round(min(1.0, room - own), 3)
    if data < LEAST_WORKER_CPUS:
        raise UserError(
            f"scaling.cpus_per_worker: {own:g} CPU leave {data:g} of the {room:g} that a trial's worker has for "
            "reading tiles; lower it, or tuning.concurrent"
        )
    gpus = _gpus(recipe, cluster.gpus, at_once)
    cpus_of_one, gpus_of_one = cluster.cpus / at_once, cluster.gpus / at_once
    return ResourcePlan(workers, own, gpus, data * workers, cpus_of_one, gpus_of_one, True, True)


def _gpus(recipe: Recipe, gpus: float, at_once: int) -> float:
    if recipe.scaling.gpus_per_worker != "auto":
        return float(recipe.scaling.gpus_per_worker)
    workers = recipe.scaling.processes * at_once
    if not gpus or gpus >= workers:
        return 1.0 if gpus else 0.0
    # A worker lies on one GPU: of three on two GPUs, two share one.
    return math.floor(1000 / math.ceil(workers / max(1, int(gpus)))) / 1000
