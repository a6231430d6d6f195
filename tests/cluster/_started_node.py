"""Nodes of Ray on this machine, started by the words that KubeRay 1.7 puts into the container of a pod."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_LIMIT = "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}"


@dataclass(frozen=True)
class Node:
    """A node that runs."""

    process: subprocess.Popen[bytes]
    """What the container's process 1 would be."""
    environment: dict[str, str]
    """Of whoever may talk to its cluster."""
    address: str
    """Of the cluster."""
    folder: Path
    """Of Ray's sessions."""


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def head(folder: Path, environment: Mapping[str, str], **parameters: str) -> Iterator[Node]:
    """A head with a token of its own and a dashboard, and at its end none of its processes.

    Args:
        folder: for its token; Ray's sessions lie in one under ``/tmp``.
        environment: of its processes, beside this one's.
        parameters: of ``ray start``, with ``_`` for ``-``.
    """
    token = folder / "token"
    token.write_text("a-token-of-this-test-alone-0123456789")
    dashboard, port = free_port(), free_port()
    sessions = Path("/tmp") / f"ray-{port}"  # short, since sockets lie in it
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    variables |= {"AUTOSCALER_METRIC_PORT": str(free_port()), "DASHBOARD_METRIC_PORT": str(free_port())}
    variables |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment}
    words = {"port": port, "dashboard-port": dashboard, "ray-client-server-port": free_port(), "temp-dir": sessions}
    address = f"http://127.0.0.1:{dashboard}"
    try:
        with _started("--head", words | _dashed(parameters), variables) as process:
            _wait(process, lambda: answers(f"{address}/api/version"))
            yield Node(process, variables | {"RAY_API_SERVER_ADDRESS": address}, f"127.0.0.1:{port}", sessions)
    finally:
        shutil.rmtree(sessions, ignore_errors=True)


@contextlib.contextmanager
def worker(of: Node, environment: Mapping[str, str], **parameters: str) -> Iterator[Node]:
    """A further node of a head's cluster."""
    variables = of.environment | dict(environment)
    with _started("", {"address": of.address, **_dashed(parameters)}, variables) as process:
        yield Node(process, variables, of.address, of.folder)


def _dashed(parameters: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in parameters.items()}


@contextlib.contextmanager
def _started(kind: str, words: Mapping[str, object], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    ports = {"dashboard-agent-listen-port": free_port(), "metrics-export-port": free_port()}
    line = " ".join(f"--{name}={value}" for name, value in {**ports, **words}.items())
    command = f"{_LIMIT}; ray start {kind}  --block  {line} "
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(["/bin/bash", "-c", "--", command], env=environment, start_new_session=True, **quiet)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the node has ended"
        assert time.monotonic() < deadline, "the node does not answer in time"
        time.sleep(0.5)


def answers(url: str) -> bool:
    """Whether a server is there, if only to ask for the token."""
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True  # it wants the token
    except OSError:
        return False
    return True
