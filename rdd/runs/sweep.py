"""What a sweep leaves: its directory, a table of trials, the best config, and figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from rdd import storage
from rdd.config import Config
from rdd.config.parse import leaf_of, override, to_yaml
from rdd.config.secrets import without_password
from rdd.evaluation.sweep_figures import Point, write_sweep_figures
from rdd.runs.directory import RunDirectory
from rdd.shapes import NUMBER

_TRIAL_ANEW = "delete the trial's directory to begin it again"


@dataclass(frozen=True)
class Trial:
    """One trial and how it ended."""

    name: str
    values: dict[str, Any]
    """By dotted path, what was drawn."""
    status: str
    """finished, stopped (early) or failed."""
    epochs: int
    """Epochs trained."""
    best_auroc: float | None
    """Validation AUC of its best epoch."""
    best_log_loss: float | None
    """Validation log loss of that epoch."""
    best_epoch: int | None
    """Its best epoch, counted from 1."""
    error: str | None
    """Why it failed."""


@dataclass(frozen=True)
class SweepDirectory:
    """Paths of a sweep: best.yaml, trials.parquet, metrics.json, figures/, and a run directory a trial."""

    path: str

    @property
    def figures(self) -> str:
        """Directory of the figures."""
        return storage.join(self.path, "figures")

    @property
    def best(self) -> str:
        """The config of the best trial."""
        return storage.join(self.path, "best.yaml")

    @property
    def table(self) -> str:
        """The table of trials."""
        return storage.join(self.path, "trials.parquet")

    @property
    def ray(self) -> str:
        """Where Ray Tune keeps what it goes on from."""
        return storage.join(self.path, ".ray")

    def trial(self, name: str) -> RunDirectory:
        """Directory of a trial."""
        return RunDirectory(storage.join(self.path, "trials", name))

    def start(self, name: str, values: dict[str, Any]) -> None:
        """Note a trial and what was drawn for it."""
        storage.write_json(storage.join(self.trial(name).path, "trial.json"), values)

    def end(self, name: str, reported: dict[str, float]) -> None:
        """Note that a trial has ended, and what it reported last."""
        storage.write_json(storage.join(self.trial(name).path, "ended.json"), reported)

    def ended(self, name: str) -> dict[str, float] | None:
        """What a trial that has ended reported last; None for one that has not."""
        place = storage.join(self.trial(name).path, "ended.json")
        return (
            storage.read_json(place, {"score": NUMBER, "epoch": NUMBER}, way_out=_TRIAL_ANEW) if storage.exists(place) else None
        )

    def names(self, *, ended: bool = False) -> list[str]:
        """Names of the trials so far, or of those that have ended; one listing."""
        folder = storage.join(self.path, "trials")
        if not storage.exists(folder):
            return []
        note = "/ended.json" if ended else "/trial.json"
        return [file.path.split("/")[-2] for file in storage.list_files(folder, suffix=note)]

    def values(self, name: str, drawn: Iterable[str]) -> dict[str, Any]:
        """What was drawn for a trial: the values of the dotted paths ``drawn``."""
        place = storage.join(self.trial(name).path, "trial.json")
        return storage.read_json(place, dict.fromkeys(drawn, object), way_out=_TRIAL_ANEW)

    def delete(self, name: str) -> None:
        """Delete all that a trial has left."""
        storage.delete_directory(self.trial(name).path)


def trial_of(
    name: str, values: dict[str, Any], history: Sequence[Mapping[str, float]], *, epochs: int, error: str | None
) -> Trial:
    """How a trial has ended.

    Args:
        name: of the trial.
        values: what was drawn for it.
        history: metrics of its epochs.
        epochs: of a trial that runs to its end.
        error: why it failed, if it did.
    """
    status = "failed" if error else "finished" if len(history) >= epochs else "stopped"
    best = best_epoch_of(history)
    if best is None:
        return Trial(name, values, status, 0, None, None, None, error)
    return Trial(name, values, status, len(history), best["val/auroc"], best["val/log_loss"], int(best["epoch"]), error)


def rank_of(trial: Trial) -> tuple[float, float, str]:
    """Sorts trials from the best to the worst: by the validation AUC of their best epoch, then by its log loss.

    Not by the objective, which may differ between trials. Equal ones are sorted by what was drawn, so that the order is the
    same each time.
    """
    auroc, log_loss = (-1.0, 0.0) if trial.best_auroc is None else (trial.best_auroc, trial.best_log_loss or 0.0)
    return -auroc, log_loss, repr(sorted(trial.values.items()))


def best_epoch_of(history: Sequence[Mapping[str, float]]) -> Mapping[str, float] | None:
    """The epoch whose weights a run keeps as its best: equal ones by validation loss, then the latest, as in training."""
    return max(reversed(history), key=lambda row: (row["val/auroc"], -row["val/loss"]), default=None)


def finish_sweep(config: Config, sweep: SweepDirectory, trials: list[Trial], *, images: int) -> dict[str, Any]:
    """Write what comes out of a sweep: table, best config, figures.

    Args:
        config: the sweep's.
        sweep: its directory.
        trials: all of them.
        images: of one epoch.

    Returns:
        What ``metrics.json`` is to hold.

    Raises:
        RuntimeError: every trial has failed.
    """
    rows = [
        {"trial": t.name, "status": t.status, "epochs": t.epochs, "val/auroc": t.best_auroc, "best_epoch": t.best_epoch}
        | t.values
        | {"error": t.error}
        for t in trials
    ]
    storage.write_table(sweep.table, pa.Table.from_pylist(rows))
    ranked = sorted((t for t in trials if t.best_auroc is not None and not t.error), key=rank_of)
    if not ranked:
        first = trials[0].error if trials else "none has started"
        raise RuntimeError(f"all of {len(trials)} trials failed, the first with: {first}")
    best = ranked[0]
    best_config = override(config, best.values)
    best_config = replace(best_config, train=replace(best_config.train, output=storage.join(sweep.path, "best")))
    storage.write_bytes(sweep.best, without_password(to_yaml(best_config)).encode())
    points = [Point(t.values, t.best_auroc, t.status == "finished") for t in ranked if t.best_auroc is not None]
    write_sweep_figures(sweep.figures, points)
    counts = {status: sum(t.status == status for t in trials) for status in ("finished", "stopped", "failed")}
    return {
        "output": sweep.path,
        "trials": len(trials),
        **counts,
        "validation_auroc": best.best_auroc,
        "best_trial": best.name,
        "best": {path: leaf_of(best_config, path) for path in best.values},
        "best_config": sweep.best,
        "best_report": storage.join(sweep.path, "best", "report.html"),
        "samples_trained": images * sum(t.epochs for t in trials),
        "failures": {t.name: t.error for t in trials if t.error},
    }
