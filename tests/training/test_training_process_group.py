"""Workers on several machines find one another whatever the machines' names lead to."""

import os

import psutil
import pytest
import ray.util
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from metgan_dist.training.process_group import INTERFACE, ReachableTorchConfig, interface_of


class OneWorker:
    """A worker group whose only worker is this process."""

    def execute(self, function, *arguments, **fields):
        return [function(*arguments, **fields)]


@pytest.fixture
def seen(monkeypatch):
    """What GLOO_SOCKET_IFNAME is when Ray's own backend makes the process group."""
    known = []
    monkeypatch.setattr(_TorchBackend, "on_start", lambda self, group, config: known.append(os.environ.get(INTERFACE)))
    monkeypatch.setenv(INTERFACE, "")
    monkeypatch.delenv(INTERFACE)
    return known


def start():
    config = ReachableTorchConfig(backend="gloo")
    config.backend_cls().on_start(OneWorker(), config)


def test_rays_backend_that_makes_the_process_group_is_the_one_that_ours_extends():
    ours = ReachableTorchConfig(backend="gloo").backend_cls
    assert ours.__bases__ == (_TorchBackend,) == (TorchConfig(backend="gloo").backend_cls,), (
        "gloo listens on the loopback: workers on other machines are refused"
    )


def test_gloo_is_told_the_interface_of_the_nodes_address(seen, monkeypatch):
    name, address = next((n, a.address) for n, known in psutil.net_if_addrs().items() for a in known if a.address)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)
    start()
    assert seen == [name]


def test_an_interface_that_the_user_chose_is_kept(seen, monkeypatch):
    monkeypatch.setenv(INTERFACE, "chosen0")
    start()
    assert seen == ["chosen0"]


def test_an_address_of_no_interface_changes_nothing(seen, monkeypatch):
    assert interface_of("192.0.2.1") is None
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.1")
    start()
    assert seen == [None]
