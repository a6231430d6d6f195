"""Entries of a job's runs on their way to MLflow, which may be away for a while.

An entry is sent at once, by whoever logs it. From the moment that MLflow does not answer, a thread tries again every few
seconds and whoever logs only adds to what waits: the work is held up by one attempt for each absence. What waits is also kept
in a file of the output directory, so that a job that is killed meanwhile, or ends before MLflow is back, loses nothing: the
same command, typed again, sends it first.
"""

import logging
import threading
from typing import Any

from rdd import storage
from rdd.config.secrets import without_password
from rdd.signals import is_ending, signals_held
from rdd.tracking.addresses import run_page
from rdd.tracking.entries import SHAPE, Entry, RunIdentity, begin

logger = logging.getLogger(__name__)

RETRY_S = 5.0
"""Seconds between two attempts while MLflow is away."""

LAST_WAIT_S = 60.0
"""Seconds that a job which is done waits for a server that has answered before: long enough for it to be started again."""

_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

_NOT_NOW = (401, 403, 408, 425, 429)
"""HTTP codes below 500 after which the same entry may be taken later: a password can be put right, the others say so."""


def kept_file(output: str) -> str:
    """Where an output directory keeps what MLflow has not taken; hidden, since no stage reads it."""
    return storage.join(output, ".waiting-for-mlflow.json")


class Outbox:
    """The way of all entries of a job, in their order.

    Args:
        client: ``mlflow.MlflowClient``.
        experiment: name of the experiment, which is made where there is none.
        output: directory of the job; what an earlier job has kept there goes first.

    Raises:
        RuntimeError: what is kept there is damaged.
    """

    def __init__(self, client: Any, experiment: str, output: str) -> None:
        self._client = client
        self._experiment_name = experiment
        self._experiment_id: str | None = None
        self._ids: dict[tuple[str, str], str] = {}
        self._file = kept_file(output)
        self._waiting = _kept_entries(self._file)
        self._in_file = bool(self._waiting)
        self._has_answered = False
        self._away: threading.Thread | None = None
        self._lock = threading.Lock()
        """Of what waits, and of whether the thread is at work."""
        self._file_lock, self._sending = threading.Lock(), threading.Lock()
        self._all_sent, self._given_up = threading.Event(), threading.Event()

    def send(self, *entries: Entry) -> None:
        """Send entries after all that wait, or add them to these while MLflow is away."""
        with self._lock:
            self._waiting += entries
            away = self._away is not None
        if not away:
            with self._sending, signals_held():  # an interrupted transaction would leave the database locked
                if self._away is None:
                    self._send_waiting()
                    if self._waiting:
                        self._begin_absence()
        if self._waiting or self._in_file:
            self._keep()

    def id_of(self, run: RunIdentity) -> str:
        """Id of a run, which is begun when it is first needed; raises what the client raises."""
        if run.key not in self._ids:
            parent_id = self.id_of(run.parent) if run.parent else None
            experiment_id = self._experiment()
            self._ids[run.key] = begin(self._client, experiment_id, run, parent_id)
            if run.parent is None:
                page = run_page(self._client.tracking_uri, experiment_id, self._ids[run.key])
                logger.info("this run in MLflow: %s", page)
        return self._ids[run.key]

    def finish(self) -> None:
        """Wait a while for MLflow where it is away, then say what it has not taken and where that is kept."""
        if self._away is not None and self._has_answered and not is_ending():
            logger.info("waiting up to %g s for MLflow, which is away, to take what is left", LAST_WAIT_S)
            self._all_sent.wait(LAST_WAIT_S)
        self._given_up.set()
        with self._lock:
            left = [entry.what for entry in self._waiting]
        if not left:
            return
        counted = ", ".join(f"{what} {left.count(what)}" for what in dict.fromkeys(left))
        way_out = f"they are kept in {self._file}, and the same command brings them in once it answers"
        if not self._in_file:
            way_out = "they could not be kept either; the output directory holds the numbers"
        logger.warning("MLflow did not take %d entries of this job (%s); %s", len(left), counted, way_out)

    def _send_waiting(self) -> None:
        """Send what waits, one by one, until nothing does or MLflow does not answer."""
        while self._waiting:
            entry = self._waiting[0]
            try:
                entry.send(self._client, self.id_of(entry.run))
            except Exception as error:  # whatever its store raises: a database, a server, a bucket
                if not is_refusal(error):
                    if self._away is None:
                        logger.warning("MLflow does not answer, logging later: %s", in_words(error))
                    return
                logger.warning("MLflow refuses an entry, which is left out: %s", in_words(error))
            self._has_answered = True
            with self._lock:
                self._waiting.pop(0)

    def _begin_absence(self) -> None:
        self._all_sent.clear()
        self._away = threading.Thread(target=self._try_again, daemon=True, name="mlflow-away")
        self._away.start()

    def _try_again(self) -> None:
        while not self._given_up.wait(RETRY_S):
            before = len(self._waiting)
            self._send_waiting()
            with self._lock:
                if not self._waiting:
                    self._away = None
            if len(self._waiting) < before:
                self._keep()
            if self._away is None:
                logger.info("MLflow answers again and has all that waited")
                self._all_sent.set()
                return

    def _keep(self) -> None:
        """Write down what waits; nothing is left of the file where nothing does."""
        with self._file_lock:
            with self._lock:
                entries = [entry.to_json() for entry in self._waiting]
            try:
                if entries:
                    storage.write_json(self._file, {"entries": entries})
                else:
                    storage.delete_file(self._file)
                self._in_file = bool(entries)
            except (OSError, RuntimeError, ValueError) as error:  # the run's own files will say why it can not be written
                logger.warning("what waits for MLflow can not be kept: %s", in_words(error))

    def _experiment(self) -> str:
        if self._experiment_id is None:
            known = self._client.get_experiment_by_name(self._experiment_name)
            made = (
                known.experiment_id if known else self._client.create_experiment(self._experiment_name, tags=_EXPERIMENT_TAGS)
            )
            self._experiment_id = made
        return self._experiment_id


def in_words(error: Exception) -> str:
    """An error of MLflow's client in one line, without a password."""
    return without_password(" ".join(str(error).split()))[:200]


def _kept_entries(file: str) -> list[Entry]:
    if not storage.exists(file):
        return []
    kept = storage.read_json(file, {"entries": [SHAPE]}, way_out="delete it to go on without what it holds")
    return [Entry.from_json(written) for written in kept["entries"]]


def is_refusal(error: Exception) -> bool:
    """Whether a server answered that it will never take this (HTTP 4xx), so that trying again is of no use."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    if isinstance(error, MlflowException):
        code = error.get_http_status_code()
    elif isinstance(error, HTTPError) and error.response is not None:  # of a file
        code = error.response.status_code
    else:
        return False
    return 400 <= code < 500 and code not in _NOT_NOW
