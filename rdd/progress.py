"""Progress messages of work that may take more than a few seconds, and a clock that notices when work has stalled."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

REPORT_S = 5.0
"""Seconds between two lines of the log about one loop."""

PROGRESS_S = 10.0
"""Seconds between two notes of where an epoch stands."""

T = TypeVar("T")

_NOTHING = object()


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


def at_most_every(seconds: float, call: Callable[..., object]) -> Callable[..., None]:
    """Wrap ``call`` so that it runs at most once in ``seconds``, first after ``seconds``; calls in between are dropped."""
    last = time.monotonic()

    def paced(*args: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            call(*args)

    return paced


class StallClock:
    """Measures for how long the observed state has not changed.

    The first observed state is the one before the work begins. Until it changes, the processes of the work are starting, and
    ``start_timeout_s`` applies; from the first change on ``stall_timeout_s`` applies. So a slow start is not taken for a stall.

    Args:
        stall_timeout_s: limit in seconds after the first change.
        start_timeout_s: limit in seconds before the first change; ``stall_timeout_s`` if that is larger.
    """

    def __init__(self, *, stall_timeout_s: float, start_timeout_s: float) -> None:
        self._start_timeout_s = max(start_timeout_s, stall_timeout_s)
        self._stall_timeout_s = stall_timeout_s
        self._limit_s = self._start_timeout_s
        self._last: object = _NOTHING
        self._changed = time.monotonic()
        self._excused_until = self._changed

    def observe(self, state: object) -> bool:
        """Record the current state; return True and restart the clock if it differs from the one before."""
        if state == self._last:
            return False
        before, self._last = self._last, state
        if before is _NOTHING:
            return False
        self._changed, self._limit_s = time.monotonic(), self._stall_timeout_s
        return True

    def excuse(self, seconds: float) -> None:
        """Take nothing for a stall for so many seconds from now: something from outside has ended processes of the work."""
        self._excused_until = max(self._excused_until, time.monotonic() + seconds)

    def start_anew(self) -> None:
        """The processes of the work start once more: until the next change the limit is that of a start again."""
        self._changed, self._limit_s = time.monotonic(), self._start_timeout_s

    def stalled_s(self) -> float | None:
        """The limit that has passed without a change, in seconds; None while there is time."""
        now = time.monotonic()
        return self._limit_s if now > self._excused_until and now - self._changed > self._limit_s else None
