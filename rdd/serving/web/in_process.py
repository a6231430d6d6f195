"""The server in this process alone, without Ray: it starts in seconds, decodes in threads and scores in one."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable

import uvicorn

from rdd.serving.predictor import Predictor
from rdd.serving.web.app import build_app
from rdd.serving.web.backend import LocalBackend
from rdd.serving.web.gate import Gate
from rdd.serving.web.settings import WebSettings

logger = logging.getLogger(__name__)


def serve_in_process(
    predictor: Predictor,
    detector: str,
    settings: WebSettings,
    *,
    host: str,
    port: int,
    drain_s: float,
    decoders: int,
    batch_size: int,
) -> None:
    """Serve until SIGTERM or SIGINT, which are raised again once what was accepted is answered; SIGHUP loads anew.

    Args:
        predictor: of the detector.
        detector: its directory, which is read anew at SIGHUP.
        settings: limits and the token.
        host: address to listen on.
        port: port to listen on.
        drain_s: seconds in which accepted images are answered once a signal has come.
        decoders: threads that decode.
        batch_size: images in one pass of the encoder, at most.
    """
    backend = LocalBackend(predictor, decoders=decoders, batch_size=batch_size)
    gate = Gate(settings.max_in_flight, settings.retry_after_s)
    config = uvicorn.Config(
        build_app(backend, settings, gate),
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=round(drain_s),
    )
    try:
        _Server(config, gate, lambda: _reload(backend, detector)).run()
    finally:
        backend.close()


class _Server(uvicorn.Server):
    """Says when it serves, loads anew at SIGHUP, and accepts no image any more once it is to end."""

    def __init__(self, config: uvicorn.Config, gate: Gate, reload: Callable[[], None]) -> None:
        super().__init__(config)
        self._gate, self._reload = gate, reload

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(loop.run_in_executor, None, self._reload))
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        logger.info("serving on http://%s:%d: the page at /, routes at /docs, Ctrl-C ends it", host, self.config.port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gate.close()
        await super().shutdown(sockets)


def _reload(backend: LocalBackend, detector: str) -> None:
    """Take the detector anew; what fails is said, and the detector before stays."""
    try:
        backend.reload(detector)
    except Exception as error:  # whatever it is, the server goes on
        logger.error("the detector can not be taken anew, and the one before stays: %s", " ".join(str(error).split())[-500:])
    else:
        logger.info("detector %s is served", backend.version[:12])
