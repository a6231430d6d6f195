"""``rdd serve`` as a process of its own, on a Ray of its own, and the processes below it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from _served import ask


class ServeJob:
    """The process."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process, self.url, self._log = process, url, log

    @property
    def log(self) -> str:
        """Its standard error."""
        return self._log.read_text()

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Processes of a deployment."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in below if f"ServeReplica:rdd:{deployment}" in " ".join(one.cmdline())]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        self.process.send_signal(number)

    def wait_for(self, words: str, *, times: int = 1) -> None:
        """Wait until its standard error holds the words so often."""
        until = time.monotonic() + 120
        while self.log.count(words) < times:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            time.sleep(0.1)


@contextmanager
def serve_job(folder: Path, *words: str, environment: dict[str, str] | None = None) -> Iterator[ServeJob]:
    """Start it and wait until it serves; at the end none of its processes is left."""
    port, log = _free_port(), folder / "serve.log"
    command = [sys.executable, "-m", "rdd.on_ray.main", "serve", "--port", str(port), *words]
    variables = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RDD_SERVE_TOKEN")}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, env=variables | (environment or {}), start_new_session=True)
    job = ServeJob(process, f"http://127.0.0.1:{port}", log)
    try:
        job.wait_for("serving on")
        assert ask(job.url, "GET", "/readyz").status == 200
        yield job
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(120)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
