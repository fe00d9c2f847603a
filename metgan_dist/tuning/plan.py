"""How many trials run side by side, and what each takes of the cluster."""

from __future__ import annotations

import math

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.training.resources import LEAST_WORKER_CPUS, ResourcePlan

# Of a CPU: a training below it and its tile tasks would only slow each other down.
ROOM = 1.0
LEAST_ROOM = 2 * LEAST_WORKER_CPUS


def plan_trials(recipe: Recipe, cpus: float, gpus: float, node_cpus: float) -> tuple[int, ResourcePlan]:
    """How many trials to run at once on a cluster of so many CPUs and GPUs, and the plan of each.

    A worker reserves the CPUs of its tile tasks with its own, on its node (`tiles_within`), so that trials side by side
    never hold what another's tasks wait for, whatever becomes of the cluster. `node_cpus` is the size of the largest
    node. GPUs are shared only where there are fewer of them than workers.

    Raises UserError naming `tuning.concurrent` or `scaling.workers` when that is more than the cluster has.
    """
    scaling, asked = recipe.scaling, recipe.tuning.concurrent
    cpus, gpus = cpus * scaling.share, gpus * scaling.share
    most = min(_by_cpu(recipe, cpus), _by_gpu(recipe, gpus))
    if most < 1:
        raise UserError(
            f"scaling.workers: a trial of {scaling.workers} worker(s) does not fit a cluster of {cpus:g} CPU and "
            f"{gpus:g} GPU; lower scaling.workers, scaling.cpus_per_worker or scaling.gpus_per_worker"
        )
    if asked == "auto":
        at_once = min(recipe.tuning.trials, _comfortable(recipe, cpus, gpus), most)
    elif asked > most:
        raise UserError(
            f"tuning.concurrent: {asked} trials of {scaling.workers} worker(s) do not fit a cluster of {cpus:g} CPU "
            f"and {gpus:g} GPU at once; at most {most} do, auto takes what has room"
        )
    else:
        at_once = min(recipe.tuning.trials, asked)
    return at_once, _each(recipe, cpus, gpus, node_cpus, at_once)


def _by_cpu(recipe: Recipe, cpus: float) -> int:
    given = recipe.scaling.cpus_per_worker
    need = LEAST_ROOM if given == "auto" else float(given) + LEAST_WORKER_CPUS
    return int(cpus / (recipe.scaling.workers * need) + 1e-6)


def _by_gpu(recipe: Recipe, gpus: float) -> int:
    given = recipe.scaling.gpus_per_worker
    if given == "auto" or not given:
        return recipe.tuning.trials
    per_gpu = int(1 / given + 1e-6) if given < 1 else 1 / given
    return int(gpus * per_gpu / recipe.scaling.workers + 1e-6)


def _comfortable(recipe: Recipe, cpus: float, gpus: float) -> int:
    """Trials that have a CPU for each worker, and a GPU where there are any."""
    workers, given = recipe.scaling.workers, recipe.scaling.cpus_per_worker
    need = ROOM if given == "auto" else float(given) + LEAST_WORKER_CPUS
    by_cpu = int(cpus / (workers * need) + 1e-6)
    by_gpu = int(gpus / workers) if gpus and recipe.scaling.gpus_per_worker == "auto" else by_cpu
    return max(1, min(by_cpu, by_gpu))


def _each(recipe: Recipe, cpus: float, gpus: float, node_cpus: float, at_once: int) -> ResourcePlan:
    workers, given = recipe.scaling.workers, recipe.scaling.cpus_per_worker
    room = math.floor(1000 * min(cpus / at_once / workers, node_cpus)) / 1000
    if given == "auto":
        data = min(1.0, room / 2)
        own = room - data
        own = round(own, 3) if own < 1 else (1.0 if gpus else float(int(own)))
    else:
        own = float(given)
    data = round(min(1.0, room - own), 3)
    if data < LEAST_WORKER_CPUS:
        raise UserError(
            f"scaling.cpus_per_worker: {own:g} CPU leave {data:g} of the {room:g} that a trial's worker has for "
            "reading tiles; lower it, or tuning.concurrent"
        )
    return ResourcePlan(
        workers, own, _gpus(recipe, gpus, at_once), data * workers, cpus / at_once, gpus / at_once, True, True
    )


def _gpus(recipe: Recipe, gpus: float, at_once: int) -> float:
    if recipe.scaling.gpus_per_worker != "auto":
        return float(recipe.scaling.gpus_per_worker)
    workers = recipe.scaling.workers * at_once
    if not gpus or gpus >= workers:
        return 1.0 if gpus else 0.0
    # A worker lies on one GPU: of three on two GPUs, two share one.
    return math.floor(1000 / math.ceil(workers / max(1, int(gpus)))) / 1000
