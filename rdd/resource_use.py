"""What a process uses: the share of its time in which it does what it is there for, and its memory."""

import contextlib
import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_GIB = 2**30


@dataclass(frozen=True)
class Use:
    """What a process has used since it was ready for work."""

    seconds: float
    """Since then."""
    busy_s: float
    """Of these, with work under way."""
    gpu_peak_gib: float | None
    """The most memory that its tensors have taken on its GPU; None where it has none."""


class BusyClock:
    """Measures for how long at least one thread of a process was at work; it begins when it is made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._lock = threading.Lock()
        self._at_work = 0
        self._busy_s, self._since = 0.0, 0.0

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Within it a thread is at work; of threads at work at the same time each second is counted once."""
        with self._lock:
            if not self._at_work:
                self._since = time.perf_counter()
            self._at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1
                if not self._at_work:
                    self._busy_s += time.perf_counter() - self._since

    def use(self) -> Use:
        """What the process has used so far; what is under way counts up to now."""
        with self._lock:
            now = time.perf_counter()
            busy = self._busy_s + (now - self._since if self._at_work else 0.0)
        return Use(now - self._began, busy, gpu_peak_gib())


def busy_share(now: Mapping[str, Use], before: Mapping[str, Use]) -> float | None:
    """Share of their time, in [0, 1], that some processes were at work between two looks at them.

    Args:
        now: by process.
        before: the same at the earlier look; a process that is not in it began later.

    Returns:
        None where no time has passed for any of them.
    """
    none = Use(0.0, 0.0, None)
    seconds = sum(use.seconds - before.get(name, none).seconds for name, use in now.items())
    busy = sum(use.busy_s - before.get(name, none).busy_s for name, use in now.items())
    return busy / seconds if seconds > 0 else None


def memory_gib() -> float:
    """The memory that this process takes now, in GiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / _GIB


def peak_gib() -> float:
    """The most memory that this process has taken, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB  # Linux counts KiB


def gpu_peak_gib() -> float | None:
    """The most memory that this process's tensors have taken on its GPU, in GiB; None where it has used none."""
    torch = sys.modules.get("torch")  # a process that has not imported it has no tensors, and importing takes seconds
    if torch is None or not torch.cuda.is_initialized():
        return None
    return float(torch.cuda.max_memory_allocated()) / _GIB
