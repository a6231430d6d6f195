"""Tells a wait for nodes, which clouds may take long to give, from work that hangs."""

import logging
import time
from collections.abc import Mapping

import ray

logger = logging.getLogger(__name__)

LOOK_S = 5.0
"""Seconds between two looks at the nodes."""


class NodeWait:
    """Whether the nodes that are up have room for what some work needs at the least; says so when that changes.

    Args:
        bundle: what each of its processes takes, such as ``{"CPU": 1, "GPU": 1}``.
        number: of processes that it needs at the least.
        what: names the work, for the log.
    """

    def __init__(self, bundle: Mapping[str, float], number: int, *, what: str) -> None:
        self._bundle = {name: amount for name, amount in bundle.items() if amount > 0}
        self._number, self._what = number, what
        self._looked = time.monotonic()
        self.lacking: str | None = None
        """What is waited for, in one sentence; None where nodes are not what is missing."""

    def changed(self) -> bool:
        """Look at the nodes, at most every ``LOOK_S`` seconds; True if a wait for some has begun or ended."""
        if time.monotonic() - self._looked < LOOK_S:
            return False
        self._looked = time.monotonic()
        room, before = places(self._bundle), self.lacking
        each = " and ".join(f"{amount:g} {name}" for name, amount in self._bundle.items())
        self.lacking = None
        if room < self._number:
            needed = f"{self._number} times {each}"
            self.lacking = f"{self._what} waits for nodes: it needs {needed}, and those that are up have room for {room}"
        if (self.lacking is None) == (before is None):
            return False
        logger.info("%s", self.lacking or f"{self._what}: there are nodes enough again")
        return True


def places(bundle: Mapping[str, float]) -> int:
    """How many processes that take a bundle fit on the nodes that are up, used or not."""
    up = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int(node.get(name, 0) / amount + 1e-9) for name, amount in bundle.items()) for node in up)
