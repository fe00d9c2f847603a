"""Joining a Ray cluster, or starting one on this machine, and waiting for room on it."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

import ray
from ray.autoscaler.sdk import request_resources

from metgan_dist.cluster.ray_private import ask_for_an_answer, print_news_in_one_line
from metgan_dist.cluster.resources import ResourcePlan, plan_resources
from metgan_dist.errors import UserError
from metgan_dist.recipe import Scaling

LEAST_DATA_CPUS = 0.25
ANSWER_SECONDS = 10.0
OWN_TRAININGS = {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
OWN_CLUSTER = {"RAY_idle_worker_killing_time_threshold_ms": "60000", "RAY_USAGE_STATS_ENABLED": "0"}


@contextmanager
def own_environment() -> Iterator[None]:
    """The environment in which a cluster of our own starts, and in which its trainings run until the block ends.

    OWN_CLUSTER, which a user's own settings go before: Ray ends a process that had nothing to do for a second, and
    starts another for the next task: seconds of imports for each shard that is written and each part of an epoch that
    is read. And it tells its makers how it is used, which is not ours to decide where there are patients (and costs a
    process).

    OWN_TRAININGS: Ray Train asks a dashboard which of its trainings are alive, and frees what the dead ones held. Ours
    has none; that of another cluster on this machine would know none of ours: it is sent where nobody listens. And
    nobody takes away the one machine that ours has: no process need look out for it.

    Private: the names of the variables for idle processes and for machines that are taken away, and that Ray Train asks
    where RAY_API_SERVER_ADDRESS says.
    """
    os.environ.update(OWN_TRAININGS)
    for name, value in OWN_CLUSTER.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name in OWN_TRAININGS:
            os.environ.pop(name, None)


@contextmanager
def cluster(scaling: Scaling) -> Iterator[None]:
    """Connect for the time of a `with` block; a cluster that we started ends with it, a joined one stays.

    Raises UserError naming scaling.cluster when the address does not answer or refuses the token.
    """
    if ray.is_initialized():  # a notebook, or a test, that is connected already
        yield
        return
    print_news_in_one_line()
    address = _address(scaling)
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    with own_environment() if address == "local" else nullcontext():
        _connect(address)
        try:
            yield
        finally:
            if scaling.grow:
                # What was asked for stays asked for: machines would be kept, and paid, after the run.
                with suppress(Exception):
                    request_resources(bundles=[])
            ray.shutdown()


def _connect(address: str) -> None:
    # Ray's own progress, logs and metrics agents drown ours; --debug users find them in Ray's session folder.
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    if address == "local":
        # Local workers must resolve each other on machines whose host name is not resolvable.
        ray.init(address="local", include_dashboard=False, num_cpus=os.cpu_count(), **quiet)
        return
    try:
        check_joinable(address)
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        if ray.is_initialized():
            raise
        raise UserError(f"scaling.cluster: {address}: cannot be joined ({_first_line(error)})") from error


def check_joinable(address: str) -> None:
    """Ask the cluster at `address` (host:port) for an answer, where Ray by itself would knock for minutes.

    Raises UserError naming scaling.cluster when nobody answers, or the token is missing or another one.
    """
    if not re.fullmatch(r"\S+:\d+", address) or "://" in address:
        return  # `auto`, or something else that Ray has its own words for
    try:
        ask_for_an_answer(address, ANSWER_SECONDS)
    except PermissionError as error:
        raise UserError(
            f"scaling.cluster: {address}: the cluster's token is missing, or is another one; set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that holds it"
        ) from error
    except ConnectionError as error:
        raise UserError(
            f"scaling.cluster: {address}: no Ray cluster answers there within {ANSWER_SECONDS:g} s; "
            "check RAY_ADDRESS or scaling.cluster, and that the cluster is up"
        ) from error


def is_local(scaling: Scaling) -> bool:
    """Whether a job with this recipe would start its own cluster on this machine."""
    return _address(scaling) == "local"


def _address(scaling: Scaling) -> str:
    if scaling.cluster != "auto":
        return scaling.cluster
    return os.environ.get("RAY_ADDRESS") or "local"


def plan_for_cluster(scaling: Scaling, report: Callable[[str], None]) -> ResourcePlan:
    """Plan on the joined cluster, asking an autoscaling one for the nodes it lacks (scaling.grow).

    Raises UserError when the plan does not fit what the cluster has, or has after scaling.wait seconds.
    """
    deadline = time.monotonic() + scaling.wait
    asked = False
    while True:
        have = ray.cluster_resources()
        try:
            return plan_resources(scaling, have.get("CPU", 0), have.get("GPU", 0))
        except UserError:
            if not scaling.grow or time.monotonic() > deadline:
                raise
        if not asked:
            asked = True
            gpus = 0 if scaling.gpus_per_worker == "auto" else scaling.gpus_per_worker
            bundle = {"CPU": 1, **({"GPU": gpus} if gpus else {})}
            request_resources(bundles=[bundle] * scaling.processes + [{"CPU": 1}])  # the last one reads tiles
            report(f"waiting up to {scaling.wait:g} s for the cluster to grow to {scaling.processes} worker(s)")
        time.sleep(2)


def wait_for_room(plan: ResourcePlan, scaling: Scaling, report: Callable[[str], None]) -> None:
    """Block until the planned CPUs and GPUs are free; never longer than scaling.wait.

    Raises UserError saying how much of the cluster others hold.
    """
    cpus = plan.workers * plan.cpus_per_worker + LEAST_DATA_CPUS
    gpus = plan.workers * plan.gpus_per_worker
    deadline, said = time.monotonic() + scaling.wait, False
    while True:
        free = ray.available_resources()
        if free.get("CPU", 0) + 1e-6 >= cpus and free.get("GPU", 0) + 1e-6 >= gpus:
            return
        state = f"{free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU are free of {cpus:g} and {gpus:g} needed"
        if time.monotonic() > deadline:
            raise UserError(
                f"scaling.wait: the cluster stayed busy for {scaling.wait:g} s ({state}); "
                "wait longer, or lower scaling.workers"
            )
        if not said:
            said = True
            report(f"the cluster is busy: {state}; waiting up to {scaling.wait:g} s")
        time.sleep(1)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
