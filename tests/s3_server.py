"""A local imitation of S3 (moto) in a process of its own, that counts what is asked of it and can be told to fail.

GET /-/counts gives the counts since the last time; PUT /-/faults takes what is to go wrong.
"""

import contextlib
import json
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

BUCKET = "rdd-test"


@dataclass(frozen=True)
class Counts:
    """What was asked, and how much was answered."""

    requests: list[str]
    """Method, path and range of each."""
    bytes_read: int
    """Of the objects."""
    bytes_written: int
    """In the bodies of requests."""


@dataclass(frozen=True)
class S3Server:
    """A server that runs."""

    address: str
    bucket: str = f"s3://{BUCKET}"

    def counts(self) -> Counts:
        """Since the last call."""
        with urllib.request.urlopen(f"{self.address}/-/counts") as answer:
            return Counts(**json.load(answer))

    def fail(self, *, share: float = 0.0, reset_share: float = 0.0, away_s: float = 0.0) -> None:
        """Answer a share of requests with 500 or 503, cut a share off without an answer, or cut all off for some seconds."""
        faults = {"share": share, "reset_share": reset_share, "away_s": away_s}
        request = urllib.request.Request(f"{self.address}/-/faults", json.dumps(faults).encode(), method="PUT")
        urllib.request.urlopen(request).close()


@contextlib.contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch, address: str = "127.0.0.1") -> Iterator[S3Server]:
    """Serve an empty bucket to this process and to those that it starts, on one of this machine's addresses."""
    import boto3
    import s3fs

    words = [sys.executable, __file__, address]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        s3fs.S3FileSystem.clear_instance_cache()
        server = S3Server(address)
        server.counts()
        yield server
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        process.kill()
        process.wait()


class _Watched:
    """A WSGI application whose answers are counted, and some of them spoiled."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._random = random.Random(0)
        self._requests: list[str] = []
        self._bytes_read = 0
        self._bytes_written = 0
        self._faults = {"share": 0.0, "reset_share": 0.0, "away_s": 0.0}
        self._back_at = 0.0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path.startswith("/-/"):
            return self._controlled(environ, start_response)
        if time.monotonic() < self._back_at or self._random.random() < self._faults["reset_share"]:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)  # else the client would wait for an answer
            raise ConnectionResetError
        if self._random.random() < self._faults["share"]:
            start_response(self._random.choice(["500 Internal Server Error", "503 Slow Down"]), [("Content-Length", "0")])
            return [b""]
        answer = list(self._application(environ, start_response))
        self._requests.append(f"{method} {path} {environ.get('HTTP_RANGE', '')}".strip())
        self._bytes_written += int(environ.get("CONTENT_LENGTH") or 0)
        if method == "GET" and path.count("/") > 1 and "list-type" not in environ["QUERY_STRING"]:
            self._bytes_read += sum(map(len, answer))
        return answer

    def _controlled(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        said = {"requests": self._requests, "bytes_read": self._bytes_read, "bytes_written": self._bytes_written}
        if environ["REQUEST_METHOD"] == "PUT":
            self._faults = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            self._back_at = time.monotonic() + self._faults["away_s"]
        else:
            self._requests, self._bytes_read, self._bytes_written = [], 0, 0
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(said).encode()]


def main() -> None:
    """Serve at the address that is the argument until killed; it is printed with its port once the server listens."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    application = _Watched(DomainDispatcherApplication(create_backend_app))
    server = make_server(sys.argv[1], 0, application, threaded=True, request_handler=MotoRequestHandler)
    print(f"http://{sys.argv[1]}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
