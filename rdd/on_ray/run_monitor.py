"""Watches the directories of runs that workers train, and logs each run to MLflow, to which the workers do not write."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdd.config import Config
from rdd.on_ray.session import resources_held
from rdd.progress import StallClock
from rdd.runs.directory import RunDirectory
from rdd.tracking.run_metrics import log_epoch
from rdd.tracking.tracker import Kind, Tracker

logger = logging.getLogger(__name__)


@dataclass
class _WatchedRun:
    run: RunDirectory
    tracker: Tracker
    clock: StallClock
    logged: int
    """Epochs that MLflow has."""


class RunMonitor:
    """Reports the epochs of many runs to MLflow and to the log, and notices when none of them moves any more.

    As a context manager it closes on exit, as KILLED, the MLflow runs of those that have not finished.

    Args:
        parent: tracker of the sweep or the ablation.
        kind: of the runs.
        config: of the sweep or the ablation, for its time limits.
    """

    def __init__(self, parent: Tracker, kind: Kind, config: Config) -> None:
        self._parent, self._kind = parent, kind
        self._limits = {
            "stall_timeout_s": config.train.stall_timeout_s,
            "start_timeout_s": config.cluster.start_timeout_s,
        }
        self._open: dict[str, _WatchedRun] = {}
        self._closed: set[str] = set()
        self._none_open = StallClock(**self._limits)

    def __enter__(self) -> "RunMonitor":
        return self

    def __exit__(self, *exception: object) -> None:
        for name in list(self._open):
            self.finish(name, status="KILLED", metrics={}, tags={}, epochs=0)

    def add(self, name: str, run: RunDirectory, params: Mapping[str, Any]) -> None:
        """Watch one more run; a run that MLflow knows goes on there."""
        if name in self._open or name in self._closed:
            return
        tracker = self._parent.child(name, run.path, self._kind)
        tracker.params(params)
        clock = StallClock(**self._limits)
        clock.observe(run.signs_of_life())
        self._open[name] = _WatchedRun(run, tracker, clock, logged=run.logged())

    def poll(self) -> None:
        """Log what is new.

        Raises:
            RuntimeError: no run has moved for ``train.stall_timeout_s``, or none has started in ``cluster.start_timeout_s``.
        """
        for name, watched in self._open.items():
            self._log(name, watched)
            watched.clock.observe(watched.run.signs_of_life())
        clocks = [watched.clock for watched in self._open.values()] or [self._none_open]
        limits = [clock.stalled_s() for clock in clocks]
        if None not in limits:
            raise RuntimeError(
                f"no step of {', '.join(self._open) or 'any run'} for {limits[0]:g} s, held: {resources_held()}; "
                "the same command goes on where it stopped"
            )

    def finish(self, name: str, *, status: str, metrics: Mapping[str, float], tags: Mapping[str, str], epochs: int) -> None:
        """Close the MLflow run of one that is done."""
        if name in self._closed:
            return
        watched = self._open.pop(name)
        self._closed.add(name)
        self._none_open = StallClock(**self._limits)
        self._log(name, watched)
        watched.tracker.metrics(metrics, step=epochs)
        watched.tracker.tags(tags)
        watched.tracker.close(status)

    def _log(self, name: str, watched: _WatchedRun) -> None:
        history = watched.run.history()
        for metrics in history[watched.logged :]:
            log_epoch(watched.tracker, metrics)
        if len(history) > watched.logged:
            watched.logged = len(history)
            watched.run.save_logged(watched.logged)
            logger.info("%s: epoch %d, validation AUC %.4f", name, watched.logged, history[-1]["val/auroc"])
