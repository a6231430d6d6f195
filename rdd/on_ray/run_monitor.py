"""The driver's eye on runs that workers train: one MLflow child each, written here alone."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdd.on_ray.session import resources_held
from rdd.runs.directory import RunDirectory
from rdd.tracking.tracker import Tracker

logger = logging.getLogger(__name__)


@dataclass
class _Followed:
    run: RunDirectory
    tracker: Tracker
    seen: int
    progress: dict[str, int] | None = None


class Follower:
    """Follows runs through their directories: epochs to MLflow, a word to the log, and a clock that stops at stillness.

    As a context it closes the runs that are still open when it ends: they are not finished, whatever ended it.

    Args:
        parent: tracker of the sweep or the ablation.
        stall_timeout_s: seconds without a step of any run after which there is something wrong.
    """

    def __init__(self, parent: Tracker, stall_timeout_s: float) -> None:
        self._parent = parent
        self._stall_timeout_s = stall_timeout_s
        self._open: dict[str, _Followed] = {}
        self._done: set[str] = set()
        self._moved = time.monotonic()

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *exception: object) -> None:
        for name in list(self._open):
            self.finish(name, status="KILLED", metrics={}, tags={}, epochs=0)

    def add(self, name: str, run: RunDirectory, params: Mapping[str, Any]) -> None:
        """Follow one more run; a run that MLflow knows goes on there."""
        if name in self._open or name in self._done:
            return
        tracker = self._parent.child(name, run.path)
        tracker.params(params)
        self._open[name] = _Followed(run, tracker, seen=run.logged())
        self._moved = time.monotonic()

    def poll(self) -> None:
        """Log what is new.

        Raises:
            RuntimeError: nothing has moved for ``stall_timeout_s``.
        """
        for name, followed in self._open.items():
            self._log(name, followed)
            progress = followed.run.progress()
            if progress != followed.progress:
                followed.progress, self._moved = progress, time.monotonic()
        if time.monotonic() - self._moved > self._stall_timeout_s:
            raise RuntimeError(
                f"no step of {', '.join(self._open) or 'any run'} for {self._stall_timeout_s:g} s, held: {resources_held()}; "
                "the same command goes on where it stopped"
            )

    def finish(self, name: str, *, status: str, metrics: Mapping[str, float], tags: Mapping[str, str], epochs: int) -> None:
        """Close the MLflow run of one that is done."""
        if name in self._done:
            return
        followed = self._open.pop(name)
        self._done.add(name)
        self._log(name, followed)
        followed.tracker.metrics(metrics, step=epochs)
        followed.tracker.tags(tags)
        followed.tracker.close(status)

    def _log(self, name: str, followed: _Followed) -> None:
        history = followed.run.history()
        for metrics in history[followed.seen :]:
            numbers = {key: value for key, value in metrics.items() if key != "epoch"}
            followed.tracker.metrics(numbers, step=int(metrics["epoch"]))
        if len(history) > followed.seen:
            followed.seen, self._moved = len(history), time.monotonic()
            followed.run.save_logged(followed.seen)
            logger.info("%s: epoch %d, validation AUC %.4f", name, followed.seen, history[-1]["val/auroc"])
