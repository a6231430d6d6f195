"""The server's routes on a free port of 127.0.0.1, in a thread of this process, and raw requests to them."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


class Said:
    """An answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """Of an error, in the form that all have."""
        assert self.json.keys() == {"error"}, self.json
        assert self.json["error"].keys() == {"reason", "detail"}
        detail = self.json["error"]["detail"]
        assert detail
        assert "\n" not in detail
        return self.json["error"]["reason"]


def ask(url: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, **options: Any) -> Said:
    """One request on a connection of its own; the answer is read also where the server takes no more of the body."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        try:
            connection.request(method, path, body, dict(headers or {}), **options)
        except (BrokenPipeError, ConnectionResetError):
            pass
        response = connection.getresponse()
        return Said(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


def form(*parts: tuple[str, str | None, bytes], boundary: str = "edge", end: bool = True) -> bytes:
    """A multipart body of parts: name, file name or None, content."""
    pieces = []
    for name, file_name, content in parts:
        of_file = "" if file_name is None else f'; filename="{file_name}"'
        pieces.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{of_file}\r\n\r\n'.encode() + content + b"\r\n"
        )
    return b"".join(pieces) + (f"--{boundary}--\r\n".encode() if end else b"")


FORM = {"Content-Type": "multipart/form-data; boundary=edge"}
