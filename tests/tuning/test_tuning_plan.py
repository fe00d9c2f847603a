"""Trials side by side: as many as fit, each with room of its own for its tile tasks."""

import itertools

import pytest

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.tuning.plan import Node, plan_trials


def recipe(trials=16, concurrent="auto", **scaling):
    return Recipe.model_validate({"tuning": {"trials": trials, "concurrent": concurrent}, "scaling": scaling})


def test_two_cores_run_two_trials_that_never_wait_for_one_another():
    at_once, plan = plan_trials(recipe(), [Node(2)])
    assert at_once == 2
    assert plan.reserved == {"CPU": 1.0}
    assert plan.tiles_within
    assert plan.threads_per_worker == 1


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers", "concurrent"),
    list(itertools.product([2, 3, 8, 64], [0, 1, 4], [1, 2, 3], ["auto", 1, 2, 5])),
)
def test_no_accepted_plan_takes_more_than_the_cluster_has(cpus, gpus, workers, concurrent):
    asked = 1 if concurrent == "auto" else concurrent
    if workers * asked * 0.5 > cpus:
        with pytest.raises(UserError, match=r"tuning\.concurrent|scaling\.workers"):
            plan_trials(recipe(workers=workers, concurrent=concurrent), [Node(cpus, gpus)])
        return
    at_once, plan = plan_trials(recipe(workers=workers, concurrent=concurrent), [Node(cpus, gpus)])
    everybody = at_once * workers
    assert everybody * plan.reserved["CPU"] <= cpus + 1e-6
    # All of them on whole or shared GPUs, none across two.
    per_gpu = int(1 / plan.gpus_per_worker) if plan.gpus_per_worker else 0
    assert not gpus or everybody <= gpus * per_gpu
    assert plan.gpus_per_worker <= 1


def test_more_trials_than_room_is_refused_before_anything_starts():
    with pytest.raises(UserError, match=r"tuning.concurrent: 99 trials .* at most 4 do"):
        plan_trials(recipe(trials=100, concurrent=99), [Node(2)])


def test_a_gpu_is_shared_by_as_many_trials_as_are_asked_for():
    at_once, plan = plan_trials(recipe(concurrent=3), [Node(16, 1)])
    assert (at_once, plan.gpus_per_worker) == (3, 0.333)
    assert plan.backend == "gloo"


def test_a_fraction_of_a_gpu_that_the_recipe_names_is_kept():
    at_once, plan = plan_trials(recipe(gpus_per_worker=0.5, cpus_per_worker=1), [Node(16, 2)])
    assert (at_once, plan.gpus_per_worker, plan.cpus_per_worker) == (4, 0.5, 1)
    with pytest.raises(UserError, match=r"at most 4 do"):
        plan_trials(recipe(concurrent=5, gpus_per_worker=0.5), [Node(16, 2)])


def test_a_trial_over_several_workers_has_a_gpu_each():
    at_once, plan = plan_trials(recipe(workers=2), [Node(16, 2), Node(16, 2)])
    assert (at_once, plan.workers, plan.gpus_per_worker) == (2, 2, 1)


@pytest.mark.parametrize(
    ("nodes", "workers", "concurrent", "at_once", "room"),
    [
        ([2, 2, 2, 2], 1, 1, 1, 2.0),  # a worker is no larger than a node
        ([1, 2], 1, 2, 2, 1.0),  # half of three would leave one of the two waiting
        ([1, 2], 1, "auto", 3, 1.0),
        ([2, 2, 2, 2], 3, "auto", 2, 1.0),
        ([4, 16], 1, 5, 5, 4.0),
    ],
)
def test_workers_are_as_large_as_all_of_them_fit_on_nodes(nodes, workers, concurrent, at_once, room):
    planned, plan = plan_trials(recipe(workers=workers, concurrent=concurrent), [Node(cpus) for cpus in nodes])
    assert (planned, plan.reserved["CPU"]) == (at_once, room)
    assert sum(int(cpus / plan.reserved["CPU"]) for cpus in nodes) >= planned * workers


def test_trials_with_gpus_count_the_cpus_that_lie_beside_these():
    at_once, plan = plan_trials(recipe(), [Node(64), Node(4, 4)])
    assert (at_once, plan.reserved) == (4, {"CPU": 1.0, "GPU": 1.0})
    at_once, _ = plan_trials(recipe(gpus_per_worker=0), [Node(64), Node(4, 4)])
    assert at_once == 16


def test_no_more_at_once_than_there_are_trials():
    assert plan_trials(recipe(trials=3), [Node(64)])[0] == 3
