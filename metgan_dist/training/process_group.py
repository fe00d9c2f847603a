"""The process group of a training's workers, on the network by which Ray's nodes reach one another.

Gloo listens where a machine's own name leads, and on many (Debian's among them) that is the loopback: workers on other
nodes are refused. Ray knows the address that does work.

Apart from launch.py, since Ray Train's controller and workers load the classes here by name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import psutil
import ray.util
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

INTERFACE = "GLOO_SOCKET_IFNAME"


@dataclass
class ReachableTorchConfig(TorchConfig):
    """Ray's configuration of torch.distributed; unless GLOO_SOCKET_IFNAME is set, gloo is on each node's address.

    Private: _TorchBackend, whose `on_start` makes the process group. It is the last moment at which all workers can be
    told the interface, and Ray has no setting for it.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _ReachableBackend


class _ReachableBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_listen_on_nodes_address)
        super().on_start(worker_group, backend_config)


def _listen_on_nodes_address() -> None:
    name = interface_of(ray.util.get_node_ip_address())
    if name is not None:
        os.environ.setdefault(INTERFACE, name)


def interface_of(address: str) -> str | None:
    """The network interface that has an IP address, None if none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            return name
    return None
