"""A cluster that a job starts for itself keeps its idle processes, and keeps what it does to itself."""

import os
import time

import psutil
import pytest
import ray
from shared_cluster import CPUS

from metgan_dist.cluster.joining import OWN_CLUSTER

MANY = CPUS + 1  # more than the cluster has CPUs, which Ray keeps anyway
PAUSE = 4.0  # seconds; by itself Ray ends idle processes after one


@pytest.mark.slow
def test_idle_processes_are_there_for_the_next_task(ray_cluster, tmp_path):
    @ray.remote(num_cpus=0.25)
    def process():
        (tmp_path / str(os.getpid())).touch()
        while len(list(tmp_path.iterdir())) < MANY:  # all run at once, each in a process of its own
            time.sleep(0.1)
        return os.getpid()

    processes = set(ray.get([process.remote() for _ in range(MANY)]))
    time.sleep(PAUSE)
    assert len(processes) == MANY
    assert all(psutil.pid_exists(pid) for pid in processes), (
        f"Ray does not read {next(iter(OWN_CLUSTER))}: each shard and part of an epoch waits for seconds of imports"
    )


def test_nothing_about_the_use_is_sent_to_rays_makers(ray_cluster):
    @ray.remote(num_cpus=0.25)
    def reports():
        from ray._common.usage import usage_lib

        return usage_lib.usage_stats_enabled()

    assert ray.get(reports.remote()) is False
