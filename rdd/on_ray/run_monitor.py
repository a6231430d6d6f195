"""Watches the directories of runs that workers train, and logs each run to MLflow, to which the workers do not write."""

import logging
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rdd.config import Config
from rdd.on_ray.node_wait import NodeWait
from rdd.on_ray.session import resources_held
from rdd.progress import StallClock
from rdd.runs.directory import RunDirectory
from rdd.signals import signals_held
from rdd.tracking.course import Course
from rdd.tracking.run_metrics import log_epoch
from rdd.tracking.tracker import Kind, Tracker

logger = logging.getLogger(__name__)


_USES: Mapping[str, Callable[[list[float]], float]] = {"system/busy_share": statistics.fmean, "system/gpu_peak_gib": max}
"""What an epoch says of its device, and how it is summed up over runs."""


@dataclass
class _WatchedRun:
    run: RunDirectory
    tracker: Tracker
    logged: int
    """Epochs that MLflow has."""


class RunMonitor:
    """Reports the epochs of many runs to MLflow and to the log, and notices when none of them moves any more.

    As a context manager it closes on exit, as KILLED, the MLflow runs of those that have not finished.

    Args:
        parent: tracker of the sweep or the ablation.
        kind: of the runs.
        config: of the sweep or the ablation, for its time limits.
        nodes: whether those that are up have room for a run. A wait for some is no stall: it may take as long as a start.
    """

    def __init__(self, parent: Tracker, kind: Kind, config: Config, nodes: NodeWait) -> None:
        self._parent, self._kind = parent, kind
        self._config, self._nodes = config, nodes
        self._open: dict[str, _WatchedRun] = {}
        self._closed: set[str] = set()
        self._course = Course(parent, "epochs")
        self._told = 0
        self._epochs: list[Mapping[str, float]] = []
        self._restart_clock()

    def __enter__(self) -> "RunMonitor":
        return self

    def __exit__(self, *exception: object) -> None:
        with signals_held():
            for name in list(self._open):
                self.finish(name, status="KILLED", metrics={}, tags={}, epochs=0)
            self._course.end(self._told, counts=self._counts())

    def add(self, name: str, run: RunDirectory, params: Mapping[str, Any]) -> None:
        """Watch one more run; a run that MLflow knows goes on there."""
        if name in self._open or name in self._closed:
            return
        tracker = self._parent.child(name, run.path, self._kind)
        self._open[name] = _WatchedRun(run, tracker, logged=run.logged())  # before MLflow knows it: what it knows is closed
        tracker.params(params)
        self._restart_clock()

    def poll(self) -> None:
        """Log what is new.

        Raises:
            RuntimeError: no run has moved for ``train.stall_timeout_s``, or none has started in ``cluster.start_timeout_s``.
        """
        notes = {name: watched.run.notes() for name, watched in self._open.items()}
        for name, (_, _, history) in notes.items():
            self._log(name, self._open[name], history)
        if self._course.due():
            self._course.log(self._told, counts=self._counts())
        self._clock.observe(notes)
        if self._nodes.changed():
            self._restart_clock()
        if (limit := self._clock.stalled_s()) is not None:
            what = f"no step of {', '.join(self._open) or 'any run'} for {limit:g} s"
            if self._nodes.lacking is not None:
                what = f"{self._nodes.lacking}, for {limit:g} s now"
            raise RuntimeError(f"{what}, held: {resources_held()}; the same command goes on where it stopped")

    def finish(self, name: str, *, status: str, metrics: Mapping[str, float], tags: Mapping[str, str], epochs: int) -> None:
        """Close the MLflow run of one that is done."""
        if name in self._closed:
            return
        with signals_held():
            watched = self._open.pop(name)
            self._closed.add(name)
            self._restart_clock()
            self._log(name, watched, watched.run.history())
            watched.tracker.metrics(metrics, step=epochs)
            watched.tracker.tags(tags)
            watched.tracker.close(status)

    def _counts(self) -> dict[str, float]:
        """Runs that have ended, and how the devices were used in the epochs since the last point."""
        columns = {name: [epoch[name] for epoch in self._epochs if name in epoch] for name in _USES}
        used = {name: _USES[name](values) for name, values in columns.items() if values}
        self._epochs.clear()
        return {"progress/runs_ended": len(self._closed)} | used

    def _restart_clock(self) -> None:
        """Whenever a run comes or goes, the next one may have to start: until one of them moves, that limit applies."""
        self._clock = StallClock(
            stall_timeout_s=self._config.train.stall_timeout_s, start_timeout_s=self._config.cluster.start_timeout_s
        )

    def _log(self, name: str, watched: _WatchedRun, history: list[dict[str, float]]) -> None:
        for metrics in history[watched.logged :]:
            log_epoch(watched.tracker, metrics)
        self._epochs += history[watched.logged :]
        self._told += max(0, len(history) - watched.logged)
        if len(history) > watched.logged:
            watched.logged = len(history)
            watched.run.save_logged(watched.logged)
            logger.info("%s: epoch %d, validation AUC %.4f", name, watched.logged, history[-1]["val/auroc"])
