"""Who may ask: those with the token, and no page of another site."""

import base64
import binascii
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from rdd.serving.web.refusal import RefusalError
from rdd.serving.web.settings import WebSettings

OPEN_ROUTES = frozenset({"/healthz", "/readyz"})
"""Answered without the token: what asks them (Kubernetes, say) has none."""

MAX_HEADER_BYTES = 16 * 1024

_CHALLENGES = (
    ("WWW-Authenticate", 'Basic realm="rdd: any name, and the token as password", charset="UTF-8"'),
    ("WWW-Authenticate", 'Bearer realm="rdd"'),
)
"""Programs send the token as Bearer; a browser shows a window for name and password, and then sends it by itself. Each has a
line of its own, since Chromium looks at the first challenge of a line alone."""

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def check_access(settings: WebSettings, method: str, path: str, headers: Headers) -> None:
    """Let a request pass.

    Raises:
        RefusalError: 401 without the token, 403 from a page of another site, 431 for too large a header.
    """
    if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADER_BYTES:
        raise RefusalError(431, "header_too_large", f"the header must have at most {MAX_HEADER_BYTES} bytes")
    if path in OPEN_ROUTES and method in _SAFE_METHODS:
        return
    if settings.hosts and urlsplit(f"//{headers.get('host', '')}").hostname not in settings.hosts:
        raise RefusalError(403, "host", f"the server must be called by one of {', '.join(settings.hosts)}")
    if settings.token and not _has_token(headers.get("authorization", ""), settings.token):
        detail = "the token must come with the request, in the header: Authorization: Bearer TOKEN"
        raise RefusalError(401, "token", detail, _CHALLENGES)
    if method not in _SAFE_METHODS and _of_another_site(headers):
        raise RefusalError(403, "cross_site", "a page of another site must not send images here; open the server's own page")


def _has_token(given: str, token: str) -> bool:
    """Whether the header ``Authorization`` holds the token; takes as long whatever is wrong with it."""
    scheme, _, value = given.partition(" ")
    value = value.strip()
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return secrets.compare_digest(value.encode(), token.encode())


def _of_another_site(headers: Headers) -> bool:
    """Whether a browser says that the request was made by a page of another origin; programs say nothing."""
    if (site := headers.get("sec-fetch-site")) is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
