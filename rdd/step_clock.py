"""For how long a device is in training steps, measured without waiting for it."""

import contextlib
import time
from collections.abc import Iterator

import torch

from rdd.resource_use import gpu_peak_gib


class StepClock:
    """Adds up the time of steps on their device; the rest of an epoch is waiting for features.

    A GPU's own clock counts from when it reaches a step to when it has left it, while the host is steps ahead.

    Args:
        device: where the steps are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds = 0.0
        self._steps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Within it a step is computed, or on a GPU launched."""
        if not self._on_gpu:
            began = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began
            return
        begins, ends = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begins.record()
        yield
        ends.record()
        self._steps.append((begins, ends))

    def used(self, seconds: float) -> dict[str, float]:
        """What an epoch has used of its device; waits until a GPU has left its last step.

        Args:
            seconds: of the epoch, above 0.

        Returns:
            ``system/busy_share``, the share of the epoch in which the device was in steps, in [0, 1], and on a GPU
            ``system/gpu_peak_gib``, the most memory that the tensors of this process have taken.
        """
        if self._steps:
            self._steps[-1][1].synchronize()
            self._seconds += sum(begins.elapsed_time(ends) for begins, ends in self._steps) / 1000  # milliseconds
            self._steps.clear()
        peak = gpu_peak_gib()
        return {"system/busy_share": self._seconds / seconds} | ({} if peak is None else {"system/gpu_peak_gib": peak})
