"""A local Ray that listens on the loopback interface alone.

Whoever reaches a port of Ray and knows its token runs code as this user, and a job on one machine needs nothing from outside.
Ray has no public setting for it: what is used here are private parts of Ray 2.60, and a test lists every listener.
"""

import contextlib
import os
import uuid
from collections.abc import Iterator
from typing import Any

import ray
from ray._private import ray_constants
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

_LOOPBACK = "127.0.0.1"

_ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Of the workers of a local Ray, where the user has set nothing else: their process groups listen, too."""


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Within it, ``ray.init`` starts a Ray whose processes listen on 127.0.0.1 alone.

    Ray 2.60 takes that address for its node where it supports no clusters, on Windows and macOS; its argument
    ``_node_ip_address`` does not change where the raylet and the GCS listen.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    clusters = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters


def torch_config(backend: str) -> TorchConfig:
    """How the workers of a Ray Train group find each other: through a file on a Ray of :func:`on_loopback`, else as Ray does.

    Args:
        backend: of ``torch.distributed``, nccl or gloo.
    """
    return (_FileTorchConfig if ray.util.get_node_ip_address() == _LOOPBACK else TorchConfig)(backend=backend)


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
