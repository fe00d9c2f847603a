"""Names that Ray does not publish: where they may be used, and what breaks when Ray changes them.

The rest has its test beside what it is for: idle processes in test_cluster_own.py, a refused token in
test_cluster_joining.py, machines on demand in test_cluster_yaml.py, the process group in
test_training_process_group.py.
"""

import inspect
import os
import re
import time
from pathlib import Path

import ray
from ray._private import ray_constants, worker
from ray._private.utils import publish_error_to_driver
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.train.torch import TorchTrainer
from ray.train.v2._internal import constants as ray_train_constants
from servers import LONG_ENOUGH

import metgan_dist
from metgan_dist.cluster import joining, ray_private, spot_market
from metgan_dist.training import launch

PACKAGE = Path(metgan_dist.__file__).parent
PRIVATE = re.compile(r"\bray(?:\.\w+)*\.(?:_\w+|core\.generated)|_TorchBackend|_create_default_callbacks|\bRAY_\w+")
PUBLISHED = {
    "RAY_ADDRESS",
    "RAY_AIR_NEW_OUTPUT",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_BACKEND_LOG_LEVEL",
    "RAY_CHDIR_TO_TRIAL_DIR",
    "RAY_TRAIN_ENABLE_PRINT_PATCH",
    "RAY_USAGE_STATS_ENABLED",
}
WHERE_THEY_ARE_TESTED = {
    "cluster/joining.py",
    "cluster/ray_private.py",
    "cluster/spot_market.py",
    "training/launch.py",
    "training/process_group.py",
}


def test_private_names_of_ray_stay_where_a_test_says_what_they_are_for():
    found = {
        str(file.relative_to(PACKAGE)): names
        for file in PACKAGE.rglob("*.py")
        if (names := set(PRIVATE.findall(file.read_text())) - PUBLISHED)
    }
    assert set(found) == WHERE_THEY_ARE_TESTED, found


def test_without_the_channel_to_rays_control_service_no_cluster_can_be_joined(ray_cluster):
    ray_private.ask_for_an_answer(ray_cluster, 10)


def test_without_the_printer_of_news_a_dead_node_buries_the_terminal_in_dumps(ray_cluster, monkeypatch, capfd):
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    ray_private.print_news_in_one_line()
    deadline = time.monotonic() + LONG_ENOUGH
    while not (said := capfd.readouterr().out):  # whoever listens may have to begin
        assert time.monotonic() < deadline
        publish_error_to_driver(
            "node", "A node is gone.\n[state-dump] 1\n[state-dump] 2", worker.global_worker.gcs_client
        )
        time.sleep(0.5)
    assert set(said.splitlines()) == {"Ray: A node is gone."}


def test_the_environment_of_own_trainings_is_what_ray_reads():
    assert set(joining.OWN_TRAININGS) == {
        ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE,
        ray_train_constants.ENABLE_PREEMPTION_WATCHER_ENV_VAR,
    }, "a training on its own cluster asks another's dashboard, or keeps a process that looks out for nothing"


def test_an_own_environment_ends_with_its_cluster_and_keeps_what_the_user_set(monkeypatch):
    idle, usage = joining.OWN_CLUSTER
    for name in (*joining.OWN_TRAININGS, usage):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv(idle, "5")
    with joining.own_environment():
        assert {name: os.environ[name] for name in joining.OWN_TRAININGS} == joining.OWN_TRAININGS
        assert (os.environ[idle], os.environ[usage]) == ("5", joining.OWN_CLUSTER[usage])
    assert not set(joining.OWN_TRAININGS) & set(os.environ)


def test_rays_provider_of_machines_starts_and_refuses_them_as_ours_expects():
    broken = "no machine is started on demand where the spot market has none"
    (provider,) = spot_market.SpotOrOnDemand.__bases__
    fields = list(inspect.signature(provider.create_node).parameters)
    assert fields == list(inspect.signature(spot_market.SpotOrOnDemand.create_node).parameters), broken
    assert NodeLaunchException("InsufficientInstanceCapacity", "", None).category in spot_market.NONE_LEFT, broken


def test_rays_trainer_would_start_a_manager_of_data_sets_and_ours_does_not():
    def made_by(trainer):
        started = trainer(lambda: None, scaling_config=ray.train.ScalingConfig())._create_default_callbacks()
        return {type(callback).__name__ for callback in started}

    assert made_by(TorchTrainer) - made_by(launch.Trainer) == {"DatasetsCallback"}, (
        "each training starts a process of seconds of imports that has nothing to manage"
    )
