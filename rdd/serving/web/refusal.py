"""Why a request is not answered: a code, one word to count by, and one sentence."""

import json
import math
from collections.abc import Iterable

from fastapi.responses import Response


class RefusalError(Exception):
    """A request that gets no answer.

    Args:
        status: HTTP code, 4xx or 5xx.
        reason: one word of a small set, to count by.
        detail: one sentence for who asked.
        headers: sent with it, each in a line of its own.
    """

    def __init__(self, status: int, reason: str, detail: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(f"{status} {reason}: {detail}")
        self.status, self.reason, self.detail, self.headers = status, reason, detail, tuple(headers)


class BusyError(RefusalError):
    """More is asked than can be answered soon.

    Args:
        retry_after_s: seconds after which it is worth another try.
    """

    def __init__(self, retry_after_s: float) -> None:
        wait = math.ceil(retry_after_s)
        detail = f"as many images wait already as are accepted; send it again in {wait} s"
        super().__init__(429, "busy", detail, [("Retry-After", str(wait))])


class StoppingError(RefusalError):
    """The server ends, and answers what it has accepted before alone."""

    def __init__(self, retry_after_s: float) -> None:
        wait = math.ceil(retry_after_s)
        super().__init__(503, "stopping", f"the server is ending; try again in {wait} s", [("Retry-After", str(wait))])


def refused(error: RefusalError) -> Response:
    """What is sent: ``{"error": {"reason", "detail"}}``."""
    content = json.dumps({"error": {"reason": error.reason, "detail": error.detail}}, ensure_ascii=False).encode()
    response = Response(content, error.status, media_type="application/json")
    for name, value in error.headers:
        response.headers.append(name, value)
    return response
