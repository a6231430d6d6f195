"""What a server says about the use of an image by machines: directives of ``X-Robots-Tag``."""

from collections.abc import Iterable

FORBIDDING = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
"""Directives that are honoured; ``none`` stands for noindex and nofollow."""

AGENT = "rdd"
"""What this project is called in a directive that is meant for one agent."""

_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
"""Directives with a colon of their own, which names no agent."""


def forbidding_directive(headers: Iterable[str]) -> str | None:
    """The first directive that forbids the use of an image; None if there is none.

    Args:
        headers: values of ``X-Robots-Tag``: ``noai, noindex``, or for one agent ``rdd: noai``. What is said to another agent
            (``googlebot: noindex``) is not meant for this one; ``*`` and what stands before any agent is meant for all.

    Example:
        >>> forbidding_directive(["googlebot: noindex, nofollow", "rdd: noimageai"])
        'noimageai'
    """
    for header in headers:
        agent = "*"
        for part in header.lower().split(","):
            name, colon, rest = (piece.strip() for piece in part.partition(":"))
            if colon and name not in _WITH_VALUE:
                agent, name = name, rest
            if name in FORBIDDING and agent in ("*", AGENT):
                return name
    return None
