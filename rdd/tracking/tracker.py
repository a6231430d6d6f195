"""The MLflow tracker, and a tracker that logs nothing for runs without MLflow.

A tracking server that is away neither ends a run nor holds it up: :mod:`rdd.tracking.outbox` logs later what waits, and keeps
what it could not log to the end. What the server refuses (a name that it does not allow, say) would be refused again, so that
entry is given up with a warning and the next one is sent.
"""

import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from rdd import storage
from rdd.config import TrackingConfig
from rdd.config.secrets import without_password
from rdd.signals import signals_held
from rdd.tracking.entries import Entry, RunIdentity, What, runs_of
from rdd.tracking.outbox import Outbox, in_words, is_refusal, kept_file

logger = logging.getLogger(__name__)

Kind = Literal["training", "trial", "seed", "row", "round"]
"""Kinds of runs, each with a page to compare them on: single runs, trials of a sweep, runs of an ablation, its rows, and rounds
of a protocol."""

KIND_TAG = "rdd.kind"
"""Tag of a run that names its kind; runs that are not compared have none."""

_OF_FEATURES = "rdd.features_manifest_sha256"
"""Tag that a run has from the one above it."""


class Tracker(Protocol):
    """Where params, metrics and files of a run go."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Log settings under their dotted names."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Log numbers of an epoch."""

    def artefacts(self, path: str, name: str, *, only: Collection[str] = ()) -> None:
        """Log the files of a local or S3 directory, or only those directly in it that are named."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Mark the run."""

    def model(self, path: str, name: str, version: str, described: Mapping[str, Any]) -> None:
        """Log a local or S3 directory as a model, described as :func:`rdd.tracking.models.send_model` takes it."""

    def register(self, version: str, name: str, alias: str) -> None:
        """Register the model of that version under a name, and let the alias point to it."""

    def child(self, name: str, output: str, kind: Kind) -> "Tracker":
        """A run below this one, begun when something is logged; the same output directory gets the same run."""

    def close(self, status: str) -> None:
        """End the run; say what is not in."""


class NullTracker:
    """Logs nothing."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Nothing."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Nothing."""

    def artefacts(self, path: str, name: str, *, only: Collection[str] = ()) -> None:
        """Nothing."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Nothing."""

    def model(self, path: str, name: str, version: str, described: Mapping[str, Any]) -> None:
        """Nothing."""

    def register(self, version: str, name: str, alias: str) -> None:
        """Nothing."""

    def child(self, name: str, output: str, kind: Kind) -> Tracker:
        """One that logs nothing either."""
        return self

    def close(self, status: str) -> None:
        """Nothing."""


class MlflowTracker:
    """Logs to an MLflow run.

    Args:
        outbox: the way there, shared by all runs of a job.
        run: what finds the run or begins it.
    """

    def __init__(self, outbox: Outbox, run: RunIdentity) -> None:
        self._outbox = outbox
        self._run = run

    def begin(self) -> None:
        """Begin the run, or go on with it."""
        self._send("begin", {})

    def params(self, values: Mapping[str, Any]) -> None:
        """Log settings under their dotted names; a run that goes on keeps those it began with, which MLflow never changes."""
        self._send("params", {name: without_password(str(value)) for name, value in values.items()})

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Log numbers of an epoch."""
        numbers = {name: float(value) for name, value in values.items()}
        self._send("metrics", {"values": numbers, "step": step, "time_ms": int(time.time() * 1000)})

    def artefacts(self, path: str, name: str, *, only: Collection[str] = ()) -> None:
        """Log the files of a local or S3 directory, or only those directly in it that are named."""
        self._send("artefacts", {"path": storage.absolute(path), "name": name, "only": sorted(only)})

    def tags(self, values: Mapping[str, str]) -> None:
        """Mark the run."""
        self._send("tags", dict(values))

    def model(self, path: str, name: str, version: str, described: Mapping[str, Any]) -> None:
        """Log a local or S3 directory as a model, described as :func:`rdd.tracking.models.send_model` takes it."""
        values = {"path": storage.absolute(path), "name": name, "version": version, "described": dict(described)}
        self._send("model", values)

    def register(self, version: str, name: str, alias: str) -> None:
        """Register the model of that version under a name, and let the alias point to it."""
        self._send("register", {"version": version, "register": name, "alias": alias})

    def child(self, name: str, output: str, kind: Kind) -> Tracker:
        """A run below this one; the same output directory gets the same run."""
        tags = {key: value for key, value in self._run.tags.items() if key == _OF_FEATURES} | {KIND_TAG: kind}
        run = RunIdentity(f"{self._run.job}-{kind}", storage.absolute(output), name, tags, parent=self._run)
        return MlflowTracker(self._outbox, run)

    def run_id(self) -> str:
        """Id of the run, which is begun when it is first needed; raises what the server's client raises."""
        return self._outbox.id_of(self._run)

    def close(self, status: str) -> None:
        """End the run; at the end of the job, say what is not in."""
        self._send("end", {"status": status})
        if self._run.parent is None:
            self._outbox.finish()

    def _send(self, what: What, values: Mapping[str, Any]) -> None:
        self._outbox.send(Entry(self._run, what, values))


@contextmanager
def tracked(
    config: TrackingConfig,
    *,
    job: str,
    output: str,
    tags: Mapping[str, str] | None = None,
    child: Tracker | None = None,
) -> Iterator[Tracker]:
    """An MLflow run around a job; FAILED if the job raises, KILLED if a signal ends it.

    The same output directory gets the same run, so that a started-again job goes on in it.

    Args:
        config: server, experiment and name.
        job: the stage.
        output: its output directory.
        tags: further tags.
        child: the run, where it is one below another's; the job is then tracked where that one is.

    Raises:
        RuntimeError: what an earlier job has kept for MLflow is damaged.
    """
    if not config.enabled:
        yield NullTracker()
        return
    if child is None:
        logger.info("tracking in MLflow at %s", without_password(tracking_uri(config)))
    kind = {KIND_TAG: "training"} if job == "train" else {}
    tracker: Tracker = NullTracker()
    status = "FAILED"
    try:
        with signals_held():
            tracker = child or _start(config, job, output, kind | dict(tags or {}))
            if child is not None:
                child.tags(tags or {})  # which begins it, or goes on with it
        yield tracker
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def bring_in(config: TrackingConfig, output: str) -> None:
    """Send what an earlier job kept in its finished directory because MLflow was away; say what it still does not take.

    Args:
        config: server and experiment.
        output: the directory.

    Raises:
        RuntimeError: what is kept there is damaged.
    """
    if not config.enabled or not storage.exists(kept_file(output)):
        return
    logger.info("MLflow at %s gets what waits in %s", without_password(tracking_uri(config)), kept_file(output))
    if (client := _client(config)) is not None:
        outbox = Outbox(client, config.experiment, output)
        outbox.send()
        outbox.finish()


def add_artefacts(config: TrackingConfig, output: str, name: str, *, only: Collection[str]) -> int:
    """Add files of an output directory to the MLflow runs that it has, in whatever state they are; none is begun for it.

    Args:
        config: server and experiment.
        output: the directory.
        name: folder among the artefacts.
        only: the files, directly in it.

    Returns:
        How many runs have them; 0 and a warning where MLflow does not answer.
    """
    if not config.enabled or (client := _client(config)) is None:
        return 0
    place = storage.absolute(output)
    try:
        with signals_held():
            runs = runs_of(client, config.experiment, place)
            entry = Entry(RunIdentity("", place, "", {}), "artefacts", {"path": place, "name": name, "only": sorted(only)})
            for run_id in runs:
                entry.send(client, run_id)
    except Exception as error:  # whatever its store raises
        logger.warning("MLflow did not take %s of %s: %s", ", ".join(only), output, in_words(error))
        return 0
    if not runs:
        logger.info("MLflow at %s has no run of %s", without_password(tracking_uri(config)), output)
    return len(runs)


def check_tracking(config: TrackingConfig) -> None:
    """Refuse to register models where that can not be done, before any work.

    Raises:
        ValueError: naming what MLflow says.
    """
    if not config.enabled or not config.register:
        return
    said, client = "it can not be opened", _client(config)
    if client is not None:
        try:
            with signals_held():
                client.search_registered_models(max_results=1)
            return
        except Exception as error:  # whatever its store raises
            if not is_refusal(error) and getattr(error, "error_code", None) != "FEATURE_DISABLED":
                return  # it is away, and what is logged waits for it
            said = in_words(error)
    place = without_password(tracking_uri(config))
    raise ValueError(
        f"tracking.register must be empty where models can not be registered, got {config.register}; {place}: {said}"
    )


def tracking_uri(config: TrackingConfig) -> str:
    """Where runs go: the config, the environment, or a file here."""
    return config.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"


_DATABASE_TRIES = 5  # within 3 s; MLflow would try for minutes to open a database that is a directory


def _start(config: TrackingConfig, job: str, output: str, tags: Mapping[str, str]) -> Tracker:
    place = storage.absolute(output)
    if (client := _client(config)) is None:
        return NullTracker()
    run = RunIdentity(job, place, config.run_name or os.path.basename(place), tags)
    tracker = MlflowTracker(Outbox(client, config.experiment, place), run)
    tracker.begin()
    return tracker


def _client(config: TrackingConfig) -> Any | None:
    """MLflow's own, which does not try for long; None, and a warning, where there is no such database or server."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would print the address with its password
    from mlflow import MlflowClient
    from mlflow.store.db import utils

    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    utils.MAX_RETRY_COUNT = _DATABASE_TRIES
    uri = tracking_uri(config)
    try:
        return MlflowClient(tracking_uri=uri)  # opens a database; a server is asked later
    except Exception as error:  # whatever its store raises
        logger.warning("MLflow at %s does not answer, so this run is not tracked: %s", without_password(uri), in_words(error))
        return None
