"""How many images are accepted at the same time, and that none is accepted any more once the server ends."""

from collections.abc import Iterator
from contextlib import contextmanager

from rdd.serving.web.refusal import BusyError, StoppingError


class Gate:
    """Counts the images that are received, wait or are looked at; of one event loop.

    Args:
        most: so many at the same time.
        retry_after_s: seconds after which who was sent away may come again.
    """

    def __init__(self, most: int, retry_after_s: float) -> None:
        self._most, self._retry_after_s = most, retry_after_s
        self.in_flight = 0
        """Images that have been accepted and not been answered."""
        self.closed = False
        """Whether the server ends."""

    def close(self) -> None:
        """Accept nothing more."""
        self.closed = True

    @contextmanager
    def passed(self) -> Iterator[None]:
        """Within it one image is in flight.

        Raises:
            BusyError: there are enough.
            StoppingError: the server ends.
        """
        if self.closed:
            raise StoppingError(self._retry_after_s)
        if self.in_flight >= self._most:
            raise BusyError(self._retry_after_s)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
