"""What MLflow shows of how a stage gets on, under the same names in every stage.

Over time, at the number of records, images or epochs that are done: ``time/<unit>_per_s`` since the point before,
``system/busy_share`` and ``system/gpu_peak_gib`` of the processes that compute, ``system/driver_gib``, the memory of the one
that leads them, and what the stage counts beside. At the end ``time/mean_<unit>_per_s``. MLflow has a page of its own for what
is called ``system/``. Its own system metrics would tell of the driver's machine alone, which on a cluster computes nothing.
"""

import time
from collections.abc import Mapping

from rdd.progress import PROGRESS_S
from rdd.resource_use import Use, busy_share, memory_gib
from rdd.tracking.run_metrics import rounded
from rdd.tracking.tracker import Tracker

_NONE: Mapping[str, Use] = {}
_NOTHING: Mapping[str, float] = {}


class Course:
    """Logs how a stage gets on, a point every ``PROGRESS_S`` seconds at most.

    Args:
        tracker: of the stage's run.
        unit: what it counts, in the plural.
        done: how many of them earlier starts have done.
    """

    def __init__(self, tracker: Tracker, unit: str, *, done: int = 0) -> None:
        self._tracker, self._unit = tracker, unit
        self._began = self._logged = time.monotonic()
        self._before, self._done = done, 0
        self._uses: Mapping[str, Use] = {}

    def due(self) -> bool:
        """Whether it is time for the next point."""
        return time.monotonic() - self._logged >= PROGRESS_S

    def log(self, done: int, *, uses: Mapping[str, Use] = _NONE, counts: Mapping[str, float] = _NOTHING) -> None:
        """Log a point, where it is due.

        Args:
            done: by this start.
            uses: of the processes that compute, by name, where they tell.
            counts: what else is counted, by the name of its metric.
        """
        now = time.monotonic()
        rate = (done - self._done) / (now - self._logged)
        self._logged, self._done = now, done
        self._send(done, {f"time/{self._unit}_per_s": rate}, uses, counts)

    def end(self, done: int, *, uses: Mapping[str, Use] = _NONE, counts: Mapping[str, float] = _NOTHING) -> None:
        """Log the last point, with the mean rate of this start; arguments as for :meth:`log`."""
        seconds = time.monotonic() - self._began
        self._send(done, {f"time/mean_{self._unit}_per_s": done / seconds} if seconds > 0 else {}, uses, counts)

    def _send(self, done: int, rate: Mapping[str, float], uses: Mapping[str, Use], counts: Mapping[str, float]) -> None:
        share, self._uses = busy_share(uses, self._uses), uses
        peaks = [use.gpu_peak_gib for use in uses.values() if use.gpu_peak_gib is not None]
        numbers = {**counts, **rate, "system/driver_gib": memory_gib()}
        if share is not None:
            numbers["system/busy_share"] = share
        if peaks:
            numbers["system/gpu_peak_gib"] = max(peaks)
        self._tracker.metrics(rounded(numbers), step=self._before + done)
