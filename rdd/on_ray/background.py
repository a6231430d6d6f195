"""Blocking Ray work in a background thread, and the original error inside Ray's wrappers."""

import contextlib
import logging
import math
import threading
from collections.abc import Callable

import ray

from rdd import storage

logger = logging.getLogger(__name__)

POLL_S = 1.0
REPORT_S = 5.0


class Background:
    """Blocking Ray work in a thread of its own, so that a hang can not hold the caller.

    The output directories of this process stay locked until the work has ended: after a stall its caller goes on, but it may
    still write.

    Args:
        work: what to run; started at once.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._failure: BaseException | None = None
        self._locks = contextlib.ExitStack()
        self._locks.enter_context(storage.locks_kept())
        self._thread = threading.Thread(target=self._run, daemon=True, name="ray-work")
        self._thread.start()

    def running(self, wait_s: float = math.inf) -> bool:
        """Whether it still runs, after a wait of ``POLL_S`` or ``wait_s`` at most."""
        self._thread.join(min(POLL_S, wait_s))
        return self._thread.is_alive()

    def finish(self) -> None:
        """Raise what the work raised first."""
        if self._failure is not None:
            raise root_cause(self._failure) from self._failure

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._failure = error
        finally:
            self._locks.close()


def root_cause(error: BaseException) -> Exception:
    """The original error inside Ray's wrappers: a ValueError stays one, any other becomes a RuntimeError of one line."""
    while isinstance(error, ray.exceptions.RayError) and isinstance(inner := getattr(error, "cause", None), BaseException):
        if isinstance(inner, ray.exceptions.UserCodeException):  # of which the text alone has come here
            break
        error = inner
    text = str(error).split(_RAY_DATA_ADDS)[0]
    if type(error) is ValueError:
        return error
    lines = [line.strip() for line in text.split(_WRAPPED)[0].splitlines() if line.strip()]
    last = lines[-1] if lines else "no message"
    wrapped = isinstance(error, ray.exceptions.RayError) and len(lines) > 1
    if wrapped and last.startswith("ValueError: "):
        return ValueError(last.removeprefix("ValueError: "))
    named = wrapped or type(error) is RuntimeError  # which is how our own sentences come
    said = last.removeprefix("RuntimeError: ") if named else f"{type(error).__name__}: {last}"
    return RuntimeError(said.rstrip(" :'"))


_RAY_DATA_ADDS = "Failed to apply UDF"
"""Begins the advice that Ray Data puts behind the error of a step."""

_WRAPPED = "The above exception was the direct cause of the following exception"
"""Stands in a traceback between an error and its wrapper."""
