"""The driver's eye on runs that workers train: one MLflow child each, written here alone."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rdd.run_directory import RunDirectory
from rdd.tracking import Tracker

logger = logging.getLogger(__name__)


@dataclass
class _Followed:
    run: RunDirectory
    tracker: Tracker
    seen: int = 0
    progress: dict[str, int] | None = None


@dataclass
class Follower:
    """Follows runs through their directories: epochs to MLflow, a word to the log, and a clock that stops at stillness."""

    parent: Tracker
    """Of the sweep or the ablation."""
    stall_timeout_s: float
    """Seconds without a step of any run after which there is something wrong."""
    _runs: dict[str, _Followed] = field(default_factory=dict)
    _moved: float = field(default_factory=time.monotonic)

    def add(self, name: str, run: RunDirectory, params: Mapping[str, Any]) -> None:
        """Follow one more run; a run that MLflow knows goes on there."""
        if name not in self._runs:
            tracker = self.parent.child(name, run.path)
            tracker.params(params)
            self._runs[name] = _Followed(run, tracker)
            self._moved = time.monotonic()

    def poll(self) -> None:
        """Log what is new.

        Raises:
            RuntimeError: nothing has moved for ``stall_timeout_s``.
        """
        for name, followed in self._runs.items():
            history = followed.run.history()
            for metrics in history[followed.seen :]:
                numbers = {key: value for key, value in metrics.items() if key != "epoch" and value == value}
                followed.tracker.metrics(numbers, step=int(metrics["epoch"]))
            if len(history) > followed.seen:
                followed.seen, self._moved = len(history), time.monotonic()
                logger.info("%s: epoch %d, validation AUC %.4f", name, followed.seen, history[-1]["val/auroc"])
            progress = followed.run.progress()
            if progress != followed.progress:
                followed.progress, self._moved = progress, time.monotonic()
        if time.monotonic() - self._moved > self.stall_timeout_s:
            raise RuntimeError(f"no step of any run for {self.stall_timeout_s:g} s; the same command goes on where it stopped")

    def finish(self, name: str, *, status: str, metrics: Mapping[str, float], tags: Mapping[str, str], epochs: int) -> None:
        """Close the MLflow run of one that is done."""
        followed = self._runs[name]
        followed.tracker.metrics(metrics, step=epochs)
        followed.tracker.tags(tags)
        followed.tracker.close(status)
