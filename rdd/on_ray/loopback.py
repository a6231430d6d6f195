"""A local Ray that listens on the loopback interface alone.

Whoever reaches a port of Ray and knows its token runs code as this user, and a job on one machine needs nothing from outside.
Ray has no public setting for it: what is used here are private parts of Ray 2.60, and a test lists every listener.
"""

import contextlib
import os
from collections.abc import Iterator

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
