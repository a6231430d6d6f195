"""How the workers of a Ray Train group find each other: at the address of their node, and on a local Ray on loopback alone."""

import os
import socket
import uuid
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

from rdd.on_ray.loopback import LOOPBACK


def torch_config(backend: str, *, timeout_s: float) -> TorchConfig:
    """How the workers of a group meet: on a local Ray (:func:`rdd.on_ray.loopback.on_loopback`) in a file, else by their nodes.

    Args:
        backend: of ``torch.distributed``, nccl or gloo.
        timeout_s: seconds in which all of them must have come.
    """
    kind = _FileTorchConfig if ray.util.get_node_ip_address() == LOOPBACK else _NodeTorchConfig
    return kind(backend=backend, timeout_s=max(1, int(timeout_s)))


class _NodeTorchConfig(TorchConfig):
    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _NodeTorchBackend


class _NodeTorchBackend(_TorchBackend):
    """Ray's, but for the interface: gloo takes that of the host's name, which many hosts give to their loopback address."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_take_the_nodes_interface)
        super().on_start(worker_group, backend_config)


def _take_the_nodes_interface() -> None:
    """Let this process exchange by the network interface that has its node's address, unless the user has named one."""
    address = ray.util.get_node_ip_address()
    for name, places in psutil.net_if_addrs().items():
        if any(place.family in (socket.AF_INET, socket.AF_INET6) and place.address == address for place in places):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


class _FileTorchConfig(TorchConfig):
    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _FileTorchBackend


class _FileTorchBackend(_TorchBackend):
    """Ray's, but for the store that ranks meet in: torch's own, a ``TCPStore``, listens on every interface."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_set_torch_distributed_env_vars)
        context = ray.get_runtime_context()
        # a new file each time: torch would read what a group that was killed has left in it
        store = os.path.join(context.get_temp_dir(), context.get_session_name(), f"torch-store-{uuid.uuid4().hex}")
        group = {"backend": backend_config.backend, "world_size": len(worker_group), "init_method": f"file://{store}"}
        ready = [
            worker_group.execute_single_async(
                rank, _setup_torch_process_group, world_rank=rank, timeout_s=backend_config.timeout_s, **group
            )
            for rank in range(len(worker_group))
        ]
        ray.get(ready)
