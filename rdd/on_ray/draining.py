"""Nodes that are about to be taken away: what the log says of them, and what a job does not take for a stall of its own.

Ray itself gives a drained node no new work, begins on other nodes what did not end there, and does not count that as a retry.
"""

import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

import ray
from ray._private.state import state  # Ray 2.60 has no public list of draining nodes; Ray Data and Ray Train read this one

from rdd.progress import StallClock

logger = logging.getLogger(__name__)


class DrainWatch:
    """Looks for nodes that are being drained and logs each once.

    Args:
        start_timeout_s: seconds in which workers may start anew once their node has gone.
    """

    def __init__(self, start_timeout_s: float) -> None:
        self._start_timeout_s = start_timeout_s
        self._known: set[str] = set()
        self._found: dict[str, _Draining] = {}
        self._asking: threading.Thread | None = None

    @property
    def nodes(self) -> Collection[str]:
        """Ids of the nodes that were being drained at the last look."""
        return self._found.keys()

    def look(self, clock: StallClock) -> None:
        """See which nodes are being drained, as of the look before; the clock waits for the workers of a new one."""
        found = self._found
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=self._ask, daemon=True, name="draining-nodes")
            self._asking.start()  # in a thread, since a head that has gone never answers
        for node in found.keys() - self._known:
            self._known.add(node)
            left_s = max(0.0, found[node].deadline_s - time.time())
            logger.info(
                "node %s is being drained: it ends %s, and what its workers have not finished by then is done again elsewhere",
                found[node].address,
                f"in {left_s:.0f} s" if found[node].deadline_s else "when it is idle",
            )
            clock.excuse(left_s + self._start_timeout_s)

    def _ask(self) -> None:
        try:
            deadlines: dict[str, int] = state.get_draining_nodes()
            addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in state.node_table()} if deadlines else {}
        except ray.exceptions.RaySystemError:  # the session has ended meanwhile
            return
        self._found = {node: _Draining(addresses.get(node, node), ms / 1000) for node, ms in deadlines.items()}


@dataclass(frozen=True)
class _Draining:
    address: str
    deadline_s: float
    """UNIX seconds; 0 for none."""
