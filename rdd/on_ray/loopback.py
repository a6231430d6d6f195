"""A local Ray that listens on the loopback interface alone.

Whoever reaches a port of Ray and knows its token runs code as this user, and a job on one machine needs nothing from outside.
Ray has no public setting for it: what is used here are private parts of Ray 2.60, and a test lists every listener.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import ray
from ray._common import tls_utils
from ray._private import ray_constants

LOOPBACK = "127.0.0.1"

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


def keep_replica_on_loopback() -> None:
    """In a process of Ray Serve, before it begins to listen: on 127.0.0.1 alone where its node is a local Ray.

    Ray Serve 2.60 opens a port of all interfaces in each replica, behind Ray's token, and has no setting for it.
    """
    if ray.util.get_node_ip_address() != LOOPBACK:
        return
    from ray.serve._private import replica

    def add_port(server: Any, address: str) -> int:
        port: int = tls_utils.add_port_to_grpc_server(server, address.replace("[::]", LOOPBACK))
        return port

    replica.add_port_to_grpc_server = add_port
