"""What a server accepts, and from whom."""

import os
from dataclasses import dataclass, field

from rdd import storage
from rdd.config.checks import DAY_S, check
from rdd.serving.prepare import MAX_PIXELS

TOKEN_VARIABLE = "RDD_SERVE_TOKEN"
"""Environment variable that holds the token; on a command line every user of the machine could read it."""

LEAST_TOKEN = 16
"""Characters of a token, at least: as many as can not be guessed."""

_MOST_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class WebSettings:
    """Limits and manners of the server."""

    max_bytes: int = 8_000_000
    """Largest image in bytes, in [1, 2^30]; the rest of a larger one is not read."""
    max_pixels: int = MAX_PIXELS
    """Largest width x height that is decoded, in [1, 178956970], where Pillow itself stops."""
    max_in_flight: int = 64
    """Images that are received, wait or are looked at, at least 1; a further one is answered with 429."""
    retry_after_s: float = 2.0
    """Seconds after which who got 429 may try again, in (0, 86400]."""
    body_timeout_s: float = 30.0
    """Seconds in which an image must have arrived, in (0, 86400]."""
    fetch_contact: str = ""
    """Mail address or page sent to servers whose images are asked for by address; empty to fetch no addresses."""
    hosts: tuple[str, ...] = ()
    """Names that a request may call the server by, without ports; empty for any. Where there is no token this keeps out pages
    of other sites whose name leads to this machine."""
    token: str = field(default="", repr=False)
    """Without it nothing but health is answered; empty for no token, else at least 16 printable ASCII characters."""

    def __post_init__(self) -> None:
        check(1 <= self.max_bytes <= _MOST_BYTES, "max_bytes", f"lie in [1, {_MOST_BYTES}]", self.max_bytes)
        check(1 <= self.max_pixels <= 178_956_970, "max_pixels", "lie in [1, 178956970]", self.max_pixels)
        check(self.max_in_flight >= 1, "max_in_flight", "be at least 1", self.max_in_flight)
        for name in ("retry_after_s", "body_timeout_s"):
            check(0 < getattr(self, name) <= DAY_S, name, f"lie in (0, {DAY_S}]", getattr(self, name))
        plain = self.token.isascii() and self.token.isprintable() and " " not in self.token
        if self.token and not (plain and len(self.token) >= LEAST_TOKEN):
            raise ValueError(
                f"the token must have at least {LEAST_TOKEN} printable ASCII characters without spaces, got "
                f"{len(self.token)} characters; make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
            )


def read_token(path: str = "") -> str:
    """The token of a file, or of the environment variable ``RDD_SERVE_TOKEN``; empty where there is neither.

    Args:
        path: of a file that holds the token alone; empty to look into the environment.

    Raises:
        ValueError: there is no such file, or it is empty.
    """
    if not path:
        return os.environ.get(TOKEN_VARIABLE, "").strip()
    if not storage.exists(path):
        raise ValueError(f"the token's file must be there, got {path}; write the token to it, or set {TOKEN_VARIABLE}")
    token = storage.read_bytes(path).decode(errors="replace").strip()
    if not token:
        raise ValueError(f"the token's file must hold the token, got nothing in {path}; write one to it")
    return token
