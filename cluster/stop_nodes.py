"""Stops Ray on every node of a cluster of hosts that exist. Run on its head: ``python cluster/stop_nodes.py``.

``ray down`` ends machines that were rented; on hosts of your own it forgets them, and all that was started there goes on.
"""

import logging
import subprocess
import sys
import time

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

NOTICED_S = 60.0
"""Seconds for the head to see that a node has ended."""


def main() -> int:
    """Stop the workers, then the head.

    Returns:
        The exit code: 1 if a worker is still alive.
    """
    try:
        ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError:
        print("no Ray runs here; nothing was stopped", file=sys.stderr)
        return 1
    head = ray.get_runtime_context().get_node_id()
    workers = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != head}
    stop = ray.remote(num_cpus=0, max_retries=0)(stop_this_node)
    asked = [stop.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in workers]
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=NOTICED_S)
    deadline = time.monotonic() + NOTICED_S
    while (left := workers.keys() & {node["NodeID"] for node in ray.nodes() if node["Alive"]}) and time.monotonic() < deadline:
        time.sleep(0.5)
    ray.shutdown()
    subprocess.run(["ray", "stop"], check=True)
    for node in left:
        print(f"{workers[node]} did not stop; run `ray stop` there", file=sys.stderr)
    return 1 if left else 0


def stop_this_node() -> None:
    """Run ``ray stop`` where this task runs; it ends the task's own process, too, and goes on without it."""
    subprocess.Popen(["ray", "stop"], stdin=subprocess.DEVNULL, start_new_session=True)


if __name__ == "__main__":
    sys.exit(main())
