"""Drains this machine's Ray node when EC2 gives notice that it will take the machine away. For spot workers.

    python cluster/spot_watcher/spot_watcher.py

A drained node gets no new work; what runs on it may finish, until EC2 ends it two minutes after the notice. A rebalance
recommendation is logged and nothing more: it comes early or for nothing, and a preemption costs a job less than a node does.
"""

import argparse
import logging
import time

from instance_metadata import SERVICE, Metadata, MetadataError, Notice, read_notice, read_rebalance
from ray_node import RayUnavailable, drain

logger = logging.getLogger("spot_watcher")

_MARGIN_S = 5.0
"""Between the deadline that Ray is told and the end: Ray takes a node that goes before its deadline for one that has failed."""


class Watcher:
    """Looks at the metadata service, and drains at its notice. What does not change is logged once.

    Args:
        metadata: the service.
    """

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._notice: Notice | None = None
        self._drained: frozenset[str] = frozenset()
        self._said: dict[str, str] = {}

    def look(self) -> None:
        """One look; never raises for what is away, which is asked again at the next one."""
        try:
            self._read()
        except MetadataError as error:
            self._say("metadata", f"no notice can be read, asked again until there is an answer: {error}", logging.WARNING)
        else:
            if self._said.pop("metadata", None):
                logger.info("the metadata service answers again")
        if self._notice is not None:
            self._drain(self._notice)

    def _read(self) -> None:
        """Keep the notice as it was first given, for as long as it stands."""
        notice = read_notice(self._metadata)
        if notice is None:
            self._notice = None
            if read_rebalance(self._metadata):
                self._say(
                    "rebalance", "EC2 recommends to rebalance: it may take this machine soon; nothing is drained for that"
                )
        elif self._notice is None:
            self._notice = notice
            logger.info("EC2 gives notice: %s in %.0f s", notice.action, notice.ends_at - time.time())

    def _drain(self, notice: Notice) -> None:
        deadline = max(time.time(), notice.ends_at - _MARGIN_S)
        message = f"EC2 has given notice: {notice.action}"
        try:
            nodes = drain(notice.address, drained=self._drained, deadline=deadline, message=message)
        except RayUnavailable as error:
            self._say("ray", f"nothing is drained yet, tried again until the end: {error}", logging.WARNING)
            return
        self._said.pop("ray", None)
        for node in sorted(nodes):
            logger.info("Ray node %s is being drained, %.0f s before its end", node, notice.ends_at - time.time())
        self._drained |= nodes

    def _say(self, about: str, message: str, level: int = logging.INFO) -> None:
        if self._said.get(about) != message:
            logger.log(level, message)
        self._said[about] = message


def main() -> None:
    """Look until ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metadata", default=SERVICE, help=f"address of the metadata service ({SERVICE})")
    parser.add_argument("--poll_s", type=float, default=5.0, help="seconds between looks (5, as EC2's documentation advises)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")  # the journal has the time
    watcher = Watcher(Metadata(options.metadata))
    logger.info("watching %s for the notice of a spot instance", options.metadata)
    while True:
        watcher.look()
        time.sleep(options.poll_s)


if __name__ == "__main__":
    main()
