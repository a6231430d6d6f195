"""The trials of a sweep as its driver knows them: told by Ray Tune when one starts or ends, and read from storage once.

A sweep may have thousands of trials on an object store, where every look at a file costs. So nothing here walks through the
trials: each costs some requests when it starts, some while it runs, and some when it ends.
"""

import logging
import queue
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune

from rdd.metrics import selection_score
from rdd.on_ray.background import root_cause
from rdd.on_ray.run_monitor import RunMonitor
from rdd.runs.sweep import SweepDirectory, Trial, rank_of, trial_of
from rdd.tracking.run_metrics import rounded

logger = logging.getLogger(__name__)

METRIC = "score"
"""Validation AUC, ties by log loss."""


def reported(metrics: Mapping[str, float]) -> dict[str, float]:
    """What Ray Tune is told of an epoch."""
    return {METRIC: selection_score(metrics["val/auroc"], metrics["val/log_loss"]), "epoch": int(metrics["epoch"])}


@dataclass(frozen=True)
class TrialEvent:
    """A trial has started, or has ended."""

    name: str
    values: dict[str, Any]
    """What was drawn for it."""
    ended: bool
    error: str | None = None
    """Why it failed."""


_events: "queue.SimpleQueue[TrialEvent]" = queue.SimpleQueue()
"""Not the callback's own: Ray Tune pickles its callbacks and reads them back when a sweep goes on. A process runs one sweep."""


class TrialEvents(tune.Callback):
    """Passes on what Ray Tune says in its own thread, for :func:`new_events`."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or goes on after a failure."""
        _events.put(TrialEvent(trial.trial_id, dict(trial.config), ended=False))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has run to its end, or was stopped."""
        _events.put(TrialEvent(trial.trial_id, dict(trial.config), ended=True))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed for good."""
        error = trial.get_pickled_error() or trial.get_error() or RuntimeError("Ray Tune does not say why")
        _events.put(TrialEvent(trial.trial_id, dict(trial.config), ended=True, error=str(root_cause(error))))


def new_events() -> list[TrialEvent]:
    """What has happened since the last call, in order."""
    events = []
    while not _events.empty():
        events.append(_events.get())
    return events


class Trials:
    """Each trial's outcome, once; the weights of the best ones; and each trial's run in MLflow.

    Args:
        sweep: its directory.
        monitor: of the trials that run.
        params: of a trial in MLflow, from what was drawn for it.
        drawn: dotted paths of the settings that are drawn.
        epochs: of a trial that runs to its end.
        keep: how many trials keep their weights.
    """

    def __init__(
        self,
        sweep: SweepDirectory,
        monitor: RunMonitor,
        *,
        params: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        drawn: Collection[str],
        epochs: int,
        keep: int,
    ) -> None:
        self._sweep, self._monitor = sweep, monitor
        self._params, self._drawn, self._epochs, self._keep = params, drawn, epochs, keep
        self._best: list[Trial] = []
        self.outcomes: dict[str, Trial] = {}
        """Of the trials that have ended."""

    def recall(self) -> None:
        """Take up the trials that have ended in an earlier process; those that Ray Tune counts are closed in MLflow later."""
        for name in self._sweep.names(ended=True):
            if name not in self.outcomes:
                self._note(TrialEvent(name, self._sweep.values(name, self._drawn), ended=True))

    def take(self, events: list[TrialEvent]) -> None:
        """What has happened since the last time."""
        for event in events:
            if event.ended:
                self.end(event)
            elif event.name not in self.outcomes:
                self._monitor.add(event.name, self._sweep.trial(event.name), self._params(event.values))

    def end(self, event: TrialEvent) -> None:
        """A trial is over: note it, and close its run in MLflow."""
        trial = self.outcomes.get(event.name) or self._note(event)
        self._monitor.add(trial.name, self._sweep.trial(trial.name), self._params(trial.values))
        self._monitor.finish(
            trial.name,
            status="FAILED" if trial.error else "FINISHED",
            metrics={} if trial.best_auroc is None else rounded({"val/best_auroc": trial.best_auroc}),
            tags={"rdd.status": trial.status} | ({"rdd.error": trial.error[:500]} if trial.error else {}),
            epochs=trial.epochs,
        )

    def _note(self, event: TrialEvent) -> Trial:
        """The outcome of a trial, which keeps its weights while it is among the best."""
        run = self._sweep.trial(event.name)
        history = run.history()
        trial = trial_of(event.name, event.values, history, epochs=self._epochs, error=run.failure() or event.error)
        self.outcomes[trial.name] = trial
        if trial.error:
            run.drop_checkpoints()  # of no use
            logger.warning("trial %s failed with %s: %s", trial.name, trial.values, trial.error)
        elif history:
            self._sweep.end(trial.name, reported(history[-1]))
            self._best = sorted([*self._best, trial], key=rank_of)
            for worse in self._best[self._keep :]:
                self._sweep.trial(worse.name).drop_checkpoints()
            del self._best[self._keep :]
        return trial

    def leave_out(self, name: str) -> None:
        """A trial was drawn just before a kill and not noted by Ray Tune, which then drew another."""
        run = self._sweep.trial(name)
        self._monitor.add(name, run, self._params(self._sweep.values(name, self._drawn)))
        self._monitor.finish(name, status="KILLED", metrics={}, tags={"rdd.status": "not counted"}, epochs=0)
        self.outcomes.pop(name, None)
        self._sweep.delete(name)
