"""Progress of loops that may take more than a few seconds."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

logger = logging.getLogger(__name__)

REPORT_S = 5.0

T = TypeVar("T")


def logged(items: Iterable[T], *, total: int, what: str) -> Iterator[T]:
    """The items, with a line in the log every ``REPORT_S`` seconds; a loop that ends sooner says nothing.

    Args:
        items: what to go through.
        total: how many there are.
        what: words for the line, e.g. ``files of records``.
    """
    reported = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() - reported >= REPORT_S:
            reported = time.monotonic()
            logger.info("%d of %d %s", number, total, what)
        yield item
