"""A head's MLflow server as its user starts it, with a home directory of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

import requests

SERVE = str(Path("cluster/mlflow/serve.py").absolute())


@dataclass(frozen=True)
class Head:
    """A machine's user, and the server that belongs to it."""

    home: Path
    port: int
    words: tuple[str, ...]
    """Options of the server."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTEST_"))}
        return kept | {"HOME": str(self.home)}

    def serve(self, *more: str) -> subprocess.CompletedProcess:
        """Run the command that starts, ends or changes the server."""
        words = [sys.executable, SERVE, *self.words, "--port", str(self.port), *more]
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False, timeout=240)

    def start(self) -> str:
        """What it said."""
        done = self.serve("--detach")
        assert done.returncode == 0, done.stderr
        return done.stderr

    def login(self) -> tuple[str, str]:
        """User and password."""
        file = self.home / ".mlflow" / "credentials"
        assert file.stat().st_mode & 0o777 == 0o600
        content = ConfigParser()
        content.read(file)
        return content["mlflow"]["mlflow_tracking_username"], content["mlflow"]["mlflow_tracking_password"]

    def status(self, login: tuple[str, str] | None, **headers: str) -> int:
        """HTTP status of a question about experiments."""
        place = f"{self.address}/api/2.0/mlflow/experiments/search?max_results=1"
        return requests.get(place, auth=login or _nobody, headers=headers, timeout=30).status_code


def _nobody(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """No login, not even one of a .netrc."""
    return request


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listening(port: int) -> set[str]:
    """Addresses on which something listens at a port."""
    lines = subprocess.run(["ss", "-ltn"], capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    places = [line.split()[3].rpartition(":") for line in lines]
    return {host for host, _, there in places if there == str(port)}


def command_lines_with(secrets: Sequence[str]) -> list[str]:
    """Command lines of this machine that hold one of some texts."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        found += [words for secret in secrets if secret in words]
    return found
