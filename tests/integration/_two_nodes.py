"""A Ray cluster of two nodes on this machine, in a process of its own: Ray's utility would change the session of the tests.

As a script it starts them, prints their address and the process ids of their raylets, and ends them at the end of its input.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

OTHER = "127.0.0.2"
"""Address of the second node, which is a machine of its own to whoever looks at addresses."""


@dataclass(frozen=True)
class TwoNodes:
    """The cluster: its address, and the raylet of each node."""

    address: str
    head: int
    other: int

    def end_other(self) -> None:
        """Let the other node go as a machine does, with all that runs on it at once."""
        raylet = psutil.Process(self.other)
        for process in (raylet, *raylet.children(recursive=True)):
            process.kill()

    def encoders(self) -> list[psutil.Process]:
        """Processes that hold an encoder."""
        below = psutil.Process(self.head).children() + psutil.Process(self.other).children()
        return [process for process in below if "_Encoder" in " ".join(process.cmdline())]


@contextlib.contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Start them, each with the CPUs for an encoder and a task."""
    words = [sys.executable, __file__]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        yield TwoNodes(**json.loads(process.stdout.readline()))


def main() -> None:
    """Serve until the input ends."""
    from ray.cluster_utils import Cluster

    from rdd.on_ray.auth_token import keep_token_private

    keep_token_private()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        nodes = {"head": cluster.head_node, "other": cluster.add_node(num_cpus=2, node_ip_address=OTHER)}
        raylets = {name: node.all_processes["raylet"][0].process.pid for name, node in nodes.items()}
        print(json.dumps({"address": cluster.address, **raylets}), flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
