"""What holds for every request: access, headers of the answer, counts, one line in the log, and a body that is not read."""

import asyncio
import contextlib
import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rdd.serving.web.access import check_access
from rdd.serving.web.metrics import Metrics
from rdd.serving.web.refusal import RefusalError, refused
from rdd.serving.web.settings import WebSettings

access_log = logging.getLogger("rdd.access")
logger = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Counted where no answer has begun, since the client has gone before."""

DOCS = "/docs"

_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_OF_DOCS = "; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'"
"""Swagger's page starts its script inline; everything of it comes from this server all the same."""

_COUNTED = frozenset({"/predict", "/model", "/healthz", "/readyz", "/metrics", "/", DOCS, "/openapi.json"})
"""Paths that are counted and logged by name; others together, lest strangers fill the memory, or name an image in a log."""

_DISCARDED_S = 1.0
_DISCARDED_BYTES = 32 * 1024 * 1024
"""Of a body that is refused, so much is taken and thrown away: who still sends when the connection closes sees no answer."""


class Guarded:
    """An application behind its checks.

    Args:
        app: answers what passes.
        settings: whom it may answer.
        metrics: to count in.
    """

    def __init__(self, app: ASGIApp, settings: WebSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        exchange = _Exchange(scope["path"], headers, receive, send)
        try:
            check_access(self._settings, scope["method"], scope["path"], headers)
        except RefusalError as error:
            self._metrics.refusal(error.reason)
            await refused(error)(scope, exchange.receive, exchange.send)
        else:
            await self._answered(scope, exchange)
        finally:
            self._note(scope, exchange)

    async def _answered(self, scope: Scope, exchange: "_Exchange") -> None:
        """What the application answers; a failure of it is said in the form of every other refusal, and is counted."""
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:
            logger.error("a request failed", exc_info=error)
            self._metrics.refusal("failure")
            if exchange.code != CLIENT_GONE:  # an answer has begun
                raise
            detail = "the server failed at this request, and its log says at what; the same request may pass later"
            await refused(RefusalError(500, "failure", detail))(scope, exchange.receive, exchange.send)

    def _note(self, scope: Scope, exchange: "_Exchange") -> None:
        """One request is over, or its client has gone."""
        route = scope["path"] if scope["path"] in _COUNTED else "other"
        seconds = time.monotonic() - exchange.started
        self._metrics.request(route, exchange.code, seconds)
        access_log.info("%s %s %d %.3f s", scope["method"], route, exchange.code, seconds)


class _Exchange:
    """A request and its answer, watched."""

    def __init__(self, path: str, headers: Headers, receive: Receive, send: Send) -> None:
        self._path, self._receive, self._send = path, receive, send
        self.started = time.monotonic()
        self.code = CLIENT_GONE
        """Of the answer, from when it begins."""
        self._all_received = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers

    async def receive(self) -> Message:
        message = await self._receive()
        self._all_received = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.code = message["status"]
            self._add_headers(message)
            await self._send(message)
        elif message.get("more_body", False) or self._all_received or self.code < 400:
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._discard()
            await self._send({"type": "http.response.body", "body": b""})

    def _add_headers(self, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in _SECURITY.items():
            headers[name] = value
        headers["Content-Security-Policy"] = _POLICY + (_OF_DOCS if self._path == DOCS else "")
        if self.code >= 400 and not self._all_received:
            headers["Connection"] = "close"

    async def _discard(self) -> None:
        """Take what is still sent for a moment, and keep none of it."""
        size = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARDED_S):
                while not self._all_received and size < _DISCARDED_BYTES:
                    size += len((await self.receive()).get("body", b""))
