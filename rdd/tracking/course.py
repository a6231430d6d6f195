"""What MLflow shows of how a stage gets on, under the same names in every stage.

Over time, at the number of records, images or runs that are done: ``time/<unit>_per_s`` since the point before,
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

    def log(self, done: int, *, uses: Mapping[str, Use] | None = None, counts: Mapping[str, float] | None = None) -> None:
        """Log a point.

        Args:
            done: by this start.
            uses: of the processes that compute, by name, where they tell.
            counts: what else is counted, by the name of its metric.
        """
        now = time.monotonic()
        numbers = dict(counts or {}) | {"system/driver_gib": memory_gib()}
        if now > self._logged:
            numbers[f"time/{self._unit}_per_s"] = (done - self._done) / (now - self._logged)
        if uses:
            numbers |= self._used(uses)
        self._logged, self._done = now, done
        self._tracker.metrics(rounded(numbers), step=self._before + done)

    def end(self, done: int, *, uses: Mapping[str, Use] | None = None, counts: Mapping[str, float] | None = None) -> None:
        """Log the last point, and the mean rate of this start."""
        self.log(done, uses=uses, counts=counts)
        if (seconds := self._logged - self._began) > 0:
            self._tracker.metrics(rounded({f"time/mean_{self._unit}_per_s": done / seconds}), step=self._before + done)

    def _used(self, uses: Mapping[str, Use]) -> dict[str, float]:
        share, self._uses = busy_share(uses, self._uses), uses
        numbers = {} if share is None else {"system/busy_share": share}
        peaks = [use.gpu_peak_gib for use in uses.values() if use.gpu_peak_gib is not None]
        return numbers | ({"system/gpu_peak_gib": max(peaks)} if peaks else {})
