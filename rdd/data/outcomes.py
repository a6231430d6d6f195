"""What can become of an address: the words of the ``status`` column, and which failures may pass."""

import asyncio
import errno
import socket
from dataclasses import dataclass

import aiodns
import aiohttp
import pycares

from rdd.data.addresses import RefusedAddressError
from rdd.schema import STATUS_OK

SAME_URL = "same_url"
"""Of a row whose address stands earlier in the set, until it is filled in from there."""

PLACEHOLDER = "placeholder"
BLOCKED = "blocked"
HOST_DOWN = "host_down"
REFUSED_ADDRESS = "refused_address"

_RETRIED = frozenset({"http_429", "connection_reset", "incomplete", "resolver_busy"})
"""Besides 5xx: worth another try within seconds."""

_MAY_PASS_LATER = frozenset(
    {"connect_timeout", "read_timeout", "image_timeout", "connection_refused", "bad_response", HOST_DOWN}
)
"""Worth another try on another day, with those above."""

_SPEAK_FOR_HOST = frozenset({"http_429", "http_503"})
"""Said by a server that is asked too much, so that nobody asks it for a while."""

_HOST_FAILS = frozenset({"connect_timeout", "read_timeout", "image_timeout", "connection_refused"})
"""Nothing has come back from the host, or not in time."""

_NO_SUCH_NAME = frozenset(
    {pycares.errno.ARES_ENOTFOUND, pycares.errno.ARES_ENODATA, pycares.errno.ARES_ENONAME, pycares.errno.ARES_EBADNAME}
)


@dataclass(slots=True)
class Outcome:
    """What came of one address."""

    status: str
    """``ok``, or one word for the reason: ``http_404``, ``too_large``, ``read_timeout`` and so on."""
    detail: str | None = None
    """What a person wants to know."""
    retry_after_s: float | None = None
    """Seconds that the server asks to be left alone."""
    data: bytes | None = None
    sha256: str | None = None
    content_type: str | None = None
    width: int | None = None
    height: int | None = None
    final_url: str | None = None
    """The address that answered, after redirects."""
    attempts: int = 0
    """How often it was asked for; 0 where it never was."""

    @property
    def ok(self) -> bool:
        """Whether there is an image."""
        return self.status == STATUS_OK

    @property
    def retried(self) -> bool:
        """Whether another try within seconds may help."""
        return self.status in _RETRIED or self.status.startswith("http_5")

    @property
    def speaks_for_host(self) -> bool:
        """Whether the whole host wants to be left alone for a while."""
        return self.status in _SPEAK_FOR_HOST

    @property
    def host_fails(self) -> bool:
        """Whether nothing has come back from the host in time."""
        return self.status in _HOST_FAILS


def may_pass(status: str) -> bool:
    """Whether a failure may be gone on another day, so that ``fetch.retry_failed`` asks again.

    Example:
        >>> [may_pass(status) for status in ("http_503", "read_timeout", "http_404", "no_such_host", "robots")]
        [True, True, False, False, False]
    """
    return status in _RETRIED | _MAY_PASS_LATER or status.startswith("http_5")


def outcome_of(error: Exception) -> Outcome:
    """A failed request as an outcome."""
    return Outcome(_status_of(error), f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])


def _status_of(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "no_such_host" if _no_such_name(error) else "resolver_busy"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return "tls"
        case aiohttp.ConnectionTimeoutError():
            return "connect_timeout"
        case aiohttp.SocketTimeoutError():
            return "read_timeout"
        case asyncio.TimeoutError():
            return "image_timeout"
        case aiohttp.ClientConnectorError():
            return _connecting(error.os_error)
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return "bad_url"
        case aiohttp.ClientPayloadError():
            return "incomplete"
        case aiohttp.ClientResponseError():
            return "bad_response"
        case aiohttp.ServerDisconnectedError() | ConnectionError():
            return "connection_reset"
        case aiohttp.ClientOSError() if error.errno in (errno.ECONNRESET, errno.EPIPE):
            return "connection_reset"
    return "client_error"


def _connecting(error: OSError) -> str:
    """Why no connection came about; of several addresses the last one tried tells."""
    if isinstance(error, RefusedAddressError) or "is no public address" in str(error):
        return REFUSED_ADDRESS
    if isinstance(error, ConnectionResetError):
        return "connection_reset"
    return "connect_timeout" if error.errno == errno.ETIMEDOUT else "connection_refused"


def _no_such_name(error: aiohttp.ClientConnectorDNSError) -> bool:
    """Whether the resolver is sure that the name does not exist, in the words of aiodns or of the C library."""
    cause = error.os_error.__cause__
    if isinstance(cause, aiodns.error.DNSError):
        return cause.args[0] in _NO_SUCH_NAME
    return isinstance(error.os_error, socket.gaierror) and error.os_error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
