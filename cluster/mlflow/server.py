"""The server's process: what it is started with, the note by which others find it, and its end."""

import ctypes
import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from options import Options
from users import write_private

from rdd.signals import signals_end_the_job

_WORKERS = 2
"""Processes that answer; MLflow's server replaces one that dies, as long as there is more than one."""

_START_S = 180
"""Seconds in which a server must answer; it takes 10 to 20 where nothing else runs."""

_END_S = 15
"""Seconds for it to end by itself."""

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


@dataclass(frozen=True)
class Note:
    """What a server that runs says of itself."""

    pid: int
    address: str


def serve(options: Options, user: str) -> None:
    """Serve until a signal comes; what the server started ends with it.

    Args:
        options: of the server.
        user: who may do everything, and is in the database.

    Raises:
        RuntimeError: a server of this folder runs already, or this one has ended by itself.
    """
    with _taken(options):
        environment = _environment(options.folder, _auth_config(options, user))
        with signals_end_the_job("the MLflow server"):
            process = subprocess.Popen(_words(options), env=environment, start_new_session=True, preexec_fn=_end_with_parent)
            try:
                code = process.wait()
            finally:
                _end_group(process)
    raise RuntimeError(f"the MLflow server has ended by itself with exit code {code}, for the reason above")


def running(folder: Path) -> Note | None:
    """The server that works in a folder, if there is one."""
    with suppress(OSError, ValueError), _lock_file(folder).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return Note(**json.load(file))
    return None


def start(command: list[str], options: Options) -> list[str]:
    """Start a server that outlives this process, and wait until it answers.

    Args:
        command: what serves in the foreground.
        options: of the server.

    Returns:
        The lines that it has printed.

    Raises:
        ValueError: the request was wrong.
        RuntimeError: it has ended, with its last words, or does not answer.
    """
    place = options.folder / "server.log"
    log = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    begins_at = os.fstat(log).st_size
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    os.close(log)
    deadline = time.monotonic() + _START_S
    while not _answers(options.address) or running(options.folder) is None:
        if process.poll() is not None:
            said = _lines(place, begins_at)
            kind = ValueError if process.returncode == 2 else RuntimeError
            raise kind(said[-1].removeprefix("error: ") if said else f"the MLflow server has ended; see {place}")
        if time.monotonic() > deadline:
            process.terminate()
            raise RuntimeError(f"the MLflow server does not answer after {_START_S} s; see {place}")
        time.sleep(0.2)
    return _lines(place, begins_at)


def stop(folder: Path) -> bool:
    """End the server of a folder; False if there is none.

    Raises:
        RuntimeError: it does not end.
    """
    if (note := running(folder)) is None:
        return False
    os.kill(note.pid, signal.SIGTERM)
    deadline = time.monotonic() + 2 * _END_S
    while running(folder) is not None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the MLflow server (process {note.pid}) does not end; kill it")
        time.sleep(0.1)
    return True


def _lines(file: Path, begins_at: int) -> list[str]:
    return file.read_bytes()[begins_at:].decode(errors="replace").strip().splitlines()


def _words(options: Options) -> list[str]:
    words = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--backend-store-uri", options.store]
    words += ["--serve-artifacts", "--artifacts-destination", options.artefacts]
    words += ["--host", options.host, "--port", str(options.port), "--allowed-hosts", ",".join(options.allowed_hosts())]
    return [*words, "--workers", str(_WORKERS), "--uvicorn-opts", "--no-access-log"]


def _environment(folder: Path, config: Path) -> dict[str, str]:
    """That of this process, without settings of MLflow that would change who may come in; those of S3 stay."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_") or name.startswith("MLFLOW_S3_")
    }
    return kept | {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": _secret_key(folder),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # runs evaluations of language models
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "PYTHONWARNINGS": "ignore:starlette.middleware.wsgi is deprecated",
    }


def _auth_config(options: Options, user: str) -> Path:
    """MLflow's file of who may do what: those who log in read all, and write what they have made. It holds no password."""
    place = options.folder / "basic_auth.ini"
    store, name = (value.replace("%", "%%") for value in (options.store, user))  # as its reader wants it
    write_private(place, f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {store}\nadmin_username = {name}\n")
    return place


def _secret_key(folder: Path) -> str:
    """Signs the forms of its pages; the same after a restart."""
    place = folder / "secret_key"
    if not place.exists():
        write_private(place, secrets.token_hex(32))
    return place.read_text()


def _lock_file(folder: Path) -> Path:
    return folder / "lock"


@contextmanager
def _taken(options: Options) -> Iterator[None]:
    """Hold the folder; the kernel lets go when this process ends, however it ends."""
    with open(os.open(_lock_file(options.folder), os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(f"an MLflow server works in {options.folder} already; end it by --stop") from error
        file.truncate()
        json.dump({"pid": os.getpid(), "address": options.address}, file)
        file.flush()
        yield


def _end_with_parent() -> None:
    """In the new process: end if this one is killed, so that no server is left on the port."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the server and the processes that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/health", timeout=2).close()
    except (OSError, urllib.error.URLError):
        return False
    return True
