"""The web application on a port of this machine, in a thread, around a seeded detector."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from rdd.serving.predictor import Predictor
from rdd.serving.web.app import build_app
from rdd.serving.web.backend import LocalBackend
from rdd.serving.web.settings import WebSettings


@contextmanager
def answer_server(predictor: Predictor, settings: WebSettings) -> Iterator[str]:
    """Its address, with a slash at the end."""
    backend = LocalBackend(predictor, decoders=2, batch_size=8)
    config = uvicorn.Config(build_app(backend, settings), host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(30)
        backend.close()
