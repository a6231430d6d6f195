"""Moments on a device: events of a GPU's stream, or the time of day on a CPU."""

import time
from collections.abc import Sequence

import torch

Moment = torch.cuda.Event | float


class Clock:
    """Moments of the work that a device is given.

    Args:
        device: cpu or cuda.
    """

    def __init__(self, device: str) -> None:
        self._on_gpu = device.startswith("cuda")

    def mark(self) -> Moment:
        """The moment at which the device has done all that it was given so far; not waited for."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: Moment, end: Moment) -> float:
        """Between two moments, once the device has come to the second."""
        if isinstance(begin, float) and isinstance(end, float):
            return end - begin
        end.synchronize()
        return begin.elapsed_time(end) / 1000

    def busy_share(self, passes: Sequence[tuple[Moment, Moment]]) -> float:
        """Of the time between the first begin and the last end, the share in which a pass was under way.

        Args:
            passes: begin and end of each, one after the other.
        """
        return sum(self.seconds(*one) for one in passes) / self.seconds(passes[0][0], passes[-1][1])

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self._on_gpu:
            torch.cuda.synchronize()
