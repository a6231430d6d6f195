"""The MLflow tracker, and a tracker that logs nothing for runs without MLflow.

A tracking server that does not answer does not end a run: what could not be logged is kept in a queue, retried before each
later call, and if it is still not logged at the end, a warning gives the number of entries lost. What the server refuses (a
name that it does not allow, say) would be refused again, so that entry is given up with a warning and the next one is sent.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from rdd import storage
from rdd.config import TrackingConfig
from rdd.config.secrets import without_password
from rdd.provenance import git_commit
from rdd.signals import signals_held
from rdd.tracking.addresses import run_page

logger = logging.getLogger(__name__)

Kind = Literal["training", "trial", "seed", "row"]
"""Kinds of runs, each with a page to compare them on: single runs, trials of a sweep, runs of an ablation, and its rows."""

KIND_TAG = "rdd.kind"
"""Tag of a run that names its kind; runs that are not compared have none."""

_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


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

    def child(self, name: str, output: str, kind: Kind) -> "Tracker":
        """A run below this one; the same output directory gets the same run."""

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

    def child(self, name: str, output: str, kind: Kind) -> Tracker:
        """One that logs nothing either."""
        return self

    def close(self, status: str) -> None:
        """Nothing."""


class MlflowTracker:
    """Logs to an MLflow run; a call that fails is tried again before the next one.

    Args:
        client: ``mlflow.MlflowClient``.
        run: id of the run, or what begins it.
    """

    def __init__(self, client: Any, run: str | Callable[[], str]) -> None:
        self._client = client
        self._run = run
        self._waiting: list[Callable[[], object]] = []

    def params(self, values: Mapping[str, Any]) -> None:
        """Log settings under their dotted names; a run that goes on keeps those it began with, which MLflow never changes."""
        self._send(partial(self._log_params, values))

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Log numbers of an epoch."""
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._send(lambda: self._client.log_batch(self.run_id(), metrics=metrics))

    def artefacts(self, path: str, name: str, *, only: Collection[str] = ()) -> None:
        """Log the files of a local or S3 directory, or only those directly in it that are named."""
        self._send(lambda: self._log_directory(path, name, only))

    def tags(self, values: Mapping[str, str]) -> None:
        """Mark the run."""
        self._send(lambda: [self._client.set_tag(self.run_id(), name, value) for name, value in values.items()])

    def child(self, name: str, output: str, kind: Kind) -> Tracker:
        """A run below this one; the same output directory gets the same run."""
        place = storage.absolute(output)

        def begin() -> str:
            parent = self._client.get_run(self.run_id())
            tags = {key: value for key, value in parent.data.tags.items() if key == "rdd.features_manifest_sha256"} | {
                "mlflow.parentRunId": self.run_id(),
                KIND_TAG: kind,
            }
            job = f"{parent.data.tags['rdd.job']}-{kind}"
            return _run_of(self._client, parent.info.experiment_id, name, job=job, place=place, tags=tags)

        return MlflowTracker(self._client, begin)

    def run_id(self) -> str:
        """Id of the run, which is begun when it is first needed; raises what the server's client raises."""
        if callable(self._run):
            self._run = self._run()
        return self._run

    def close(self, status: str) -> None:
        """End the run; say what is not in."""
        self._send(lambda: self._client.set_terminated(self.run_id(), status))
        if self._waiting:
            logger.warning(
                "MLflow did not take %d entries of %s", len(self._waiting), self._run if isinstance(self._run, str) else "a run"
            )

    def _log_params(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id()).data.params
        params = [Param(name, without_password(str(value))) for name, value in values.items() if name not in known]
        for start in range(0, len(params), 100):  # the server's limit
            self._client.log_batch(self.run_id(), params=params[start : start + 100])

    def _log_directory(self, path: str, name: str, only: Collection[str]) -> None:
        if not storage.exists(path):  # no figure could be drawn
            return
        if not storage.is_remote(path) and not only:
            self._client.log_artifacts(self.run_id(), path, name)
            return
        there = [file.path for file in storage.list_files(path)]
        files = [file for file in there if not only or file in {storage.join(path, name) for name in only}]
        with tempfile.TemporaryDirectory() as folder:
            for file in files:
                target = Path(folder, file[len(path) + 1 :])
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(storage.read_bytes(file))
            self._client.log_artifacts(self.run_id(), folder, name)

    def _send(self, call: Callable[[], object]) -> None:
        self._waiting.append(call)
        with signals_held():  # an interrupted transaction would leave the database locked
            self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting:
            try:
                self._waiting[0]()
            except Exception as error:  # whatever its store raises: a database, a server, a bucket
                if not _is_refusal(error):
                    logger.warning("MLflow does not answer, logging later: %s", _in_words(error))
                    return
                logger.warning("MLflow refuses an entry, which is left out: %s", _in_words(error))
            self._waiting.pop(0)


_TRY_AGAIN = (408, 425, 429)
"""HTTP codes below 500 that mean: not now."""


def _is_refusal(error: Exception) -> bool:
    """Whether a server answered that it will never take this (HTTP 4xx), so that trying again is of no use."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return False
    code = error.get_http_status_code()
    return 400 <= code < 500 and code not in _TRY_AGAIN


def _in_words(error: Exception) -> str:
    return without_password(" ".join(str(error).split()))[:200]


@contextmanager
def tracked(config: TrackingConfig, *, job: str, output: str, tags: Mapping[str, str] | None = None) -> Iterator[Tracker]:
    """An MLflow run around a job; FAILED if the job raises, KILLED if a signal ends it.

    The same output directory gets the same run, so that a started-again job goes on in it.

    Args:
        config: server, experiment and name.
        job: the stage.
        output: its output directory.
        tags: further tags.
    """
    if not config.enabled:
        yield NullTracker()
        return
    logger.info("tracking in MLflow at %s", without_password(tracking_uri(config)))
    kind = {KIND_TAG: "training"} if job == "train" else {}
    tracker: Tracker = NullTracker()
    status = "FAILED"
    try:
        with signals_held():
            tracker = _start(config, job, output, kind | dict(tags or {}))
        yield tracker
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def tracking_uri(config: TrackingConfig) -> str:
    """Where runs go: the config, the environment, or a file here."""
    return config.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"


_DATABASE_TRIES = 5  # within 3 s; MLflow would try for minutes to open a database that is a directory


def _start(config: TrackingConfig, job: str, output: str, tags: Mapping[str, str]) -> Tracker:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would print the address with its password
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)

    uri = tracking_uri(config)
    try:
        if "://" in uri and not uri.startswith("http"):
            from mlflow.store.db import utils

            utils.MAX_RETRY_COUNT = _DATABASE_TRIES
        client = MlflowClient(tracking_uri=uri)
        experiment = _experiment(client, config.experiment)
        place = storage.absolute(output)
        run_id = _run_of(client, experiment, config.run_name or os.path.basename(place), job=job, place=place, tags=tags)
        logger.info("this run in MLflow: %s", run_page(uri, experiment, run_id))
    except Exception as error:
        logger.warning("MLflow at %s does not answer, so this run is not tracked: %s", without_password(uri), _in_words(error))
        return NullTracker()
    return MlflowTracker(client, run_id)


def _run_of(client: Any, experiment_id: str, name: str, *, job: str, place: str, tags: Mapping[str, str]) -> str:
    """Id of the run of an output directory: the one it had, or a new one."""
    quote = '"' if "'" in place else "'"
    search = f"tags.`rdd.output` = {quote}{place}{quote} and tags.`rdd.job` = '{job}'"
    runs = client.search_runs([experiment_id], search, max_results=1)
    if runs:
        client.update_run(runs[0].info.run_id, status="RUNNING")
        return runs[0].info.run_id
    described = {"rdd.job": job, "rdd.output": place, "mlflow.source.git.commit": git_commit()}
    return client.create_run(experiment_id, run_name=name, tags={**described, **tags}).info.run_id


def _experiment(client: Any, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return experiment.experiment_id
    return client.create_experiment(name, tags=_EXPERIMENT_TAGS)
