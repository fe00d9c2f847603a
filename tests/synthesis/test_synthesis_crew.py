"""How many replicas there is room for."""

import pytest

from metgan_dist.cluster.resources import plan_resources
from metgan_dist.errors import UserError
from metgan_dist.recipe import Scaling, Synthesis
from metgan_dist.synthesis.crew import Crew


@pytest.mark.parametrize(
    ("free", "settings", "expected"),
    [
        ({"CPU": 2}, {}, (2, 0.75, 0.0)),
        ({"CPU": 2}, {"replicas": 1}, (1, 1.0, 0.0)),
        ({"CPU": 2}, {"replicas": 3}, (3, 0.5, 0.0)),
        ({"CPU": 16}, {"threads": 4}, (4, 3.0, 0.0)),
        ({"CPU": 1}, {}, (1, 0.75, 0.0)),
    ],
)
def test_replicas_and_their_feeders_fit_the_cpus(free, settings, expected):
    plan = plan_resources(Scaling(), free["CPU"], 0)
    crew = Crew.of(Synthesis.model_validate(settings), plan, free)
    assert (crew.replicas, crew.cpus, crew.gpus) == expected
    assert crew.replicas * crew.cpus + 2 * crew.data_tasks * crew.data_cpus <= free["CPU"]


@pytest.mark.parametrize(
    ("gpus", "scaling", "settings", "expected"),
    [(4, {}, {}, (4, 1.0)), (1, {"gpus_per_worker": 0.5}, {}, (2, 0.5)), (2, {}, {"replicas": 4}, (4, 0.5))],
)
def test_one_replica_a_gpu_or_share(gpus, scaling, settings, expected):
    plan = plan_resources(Scaling.model_validate(scaling), 16, gpus)
    crew = Crew.of(Synthesis.model_validate(settings), plan, {"CPU": 16, "GPU": gpus})
    assert (crew.replicas, crew.gpus, crew.device) == (*expected, "cuda")


def test_more_replicas_than_cpus():
    with pytest.raises(UserError, match=r"synthesis.replicas: 64 replicas"):
        Crew.of(Synthesis(replicas=64), plan_resources(Scaling(), 2, 0), {"CPU": 2})
