"""A plan that cannot fit is refused; a plan that fits leaves room for the tile tasks."""

import itertools

import pytest

from metgan_dist.cluster.resources import LEAST_WORKER_CPUS, plan_resources
from metgan_dist.errors import UserError
from metgan_dist.recipe import Scaling


def test_two_workers_on_two_cores_leave_room_for_tiles():
    plan = plan_resources(Scaling(workers=2), 2, 0)
    assert plan.cpus_per_worker == 0.5
    assert plan.data_cpus == 1.0
    assert plan.backend == "gloo"


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers"), list(itertools.product([1, 2, 3, 8, 64], [0, 1, 4], [1, 2, 3, 8]))
)
def test_no_accepted_plan_takes_more_than_the_cluster_has(cpus, gpus, workers):
    if workers > cpus or workers * LEAST_WORKER_CPUS > cpus / 2:
        with pytest.raises(UserError):
            plan_resources(Scaling(workers=workers), cpus, gpus)
        return
    plan = plan_resources(Scaling(workers=workers), cpus, gpus)
    assert plan.workers * plan.cpus_per_worker + plan.data_cpus <= cpus + 0.01
    assert plan.data_cpus >= LEAST_WORKER_CPUS
    assert plan.workers * plan.gpus_per_worker <= gpus + 0.01


def test_one_gpu_each_where_there_are_enough():
    plan = plan_resources(Scaling(workers=4), 64, 8)
    assert plan.gpus_per_worker == 1
    assert plan.backend == "nccl"


def test_shared_gpu_does_not_use_nccl():
    plan = plan_resources(Scaling(workers=2), 16, 1)
    assert plan.gpus_per_worker == 0.5
    assert plan.backend == "gloo"


@pytest.mark.parametrize(
    ("scaling", "field"),
    [
        (Scaling(workers=3), "scaling.workers"),
        (Scaling(workers=2, cpus_per_worker=1), "scaling.cpus_per_worker"),
        (Scaling(workers=1, gpus_per_worker=1), "scaling.gpus_per_worker"),
    ],
)
def test_what_does_not_fit_is_named(scaling, field):
    with pytest.raises(UserError, match=f"^{field}: ") as caught:
        plan_resources(scaling, 2, 0)
    assert "\n" not in str(caught.value)


def test_a_worker_that_is_told_its_cpus_leaves_the_other_cores_to_others():
    assert plan_resources(Scaling(cpus_per_worker=1), 8, 0).threads_per_worker == 1
    assert plan_resources(Scaling(cpus_per_worker=0.5), 8, 0).threads_per_worker == 1


@pytest.mark.parametrize(("cpus", "gpus", "runs"), [(2, 0, 2), (16, 1, 4), (64, 8, 8)])
def test_runs_side_by_side_fit_together_with_their_tile_tasks(cpus, gpus, runs):
    plan = plan_resources(Scaling(share=1 / runs), cpus, gpus)
    assert runs * (plan.workers * plan.cpus_per_worker + plan.data_cpus) <= cpus + 0.01
    assert plan.data_cpus >= LEAST_WORKER_CPUS
    assert runs * plan.gpus_per_worker <= gpus + 0.01
    assert plan.threads_per_worker <= max(1, cpus // runs)
