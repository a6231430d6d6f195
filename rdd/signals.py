"""How a job ends when it is told to: by SIGTERM (a scheduler, ``ray job stop``) or by SIGINT (Ctrl-C).

The first signal raises KeyboardInterrupt in the main thread, so that MLflow runs are closed on the way out. Then every process
below this one is killed and waited for, and this one exits with 128 plus the signal's number, after one sentence. A second
signal ends it at once, and so do ``CLEAN_UP_S`` seconds of cleaning up: a thread watches for both, since the main thread may be
inside a library that does not return.
"""

import atexit
import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

CLEAN_UP_S = 20.0
"""Seconds between the first signal and the end, at most; Kubernetes kills after 30."""

SAME_REQUEST_S = 1.0
"""Signals within so many seconds of the first are the same request: timeout(1) sends one to a process and one to its group."""

GOES_ON = "; the same command goes on where it stopped"

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_KILL_S = 5.0
"""Seconds to wait for killed processes; one in the middle of a device driver's call ends later."""

_PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl


@contextlib.contextmanager
def signals_end_the_job(name: str, *, goes_on: bool = True) -> Iterator[None]:
    """Within it a signal ends this process, and all below it, as the module describes.

    Outside the main thread, which alone can handle signals, it does nothing.

    Args:
        name: of the job, for the sentence.
        goes_on: whether the same command, started again, goes on where it stopped; said in the sentence.
    """
    global _job
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _job = job = _SignalledJob(name, goes_on)
    try:
        yield
    finally:
        if _job is job:  # no forked child of it
            job.leave()
            _job = None


@contextlib.contextmanager
def signals_held(*, handlers_replaced: bool = False) -> Iterator[None]:
    """Within it a first signal waits until the end: a database must not be left locked, nor Ray half started.

    Args:
        handlers_replaced: whether what runs replaces the handler of SIGTERM, as ``ray.init`` does (by one that prints a C++
            stack) and ``ray.shutdown`` (by the default). It is put back within milliseconds, and at the end.
    """
    job = _job
    if job is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    job.holds += 1
    try:
        with _sigterm_put_back() if handlers_replaced else contextlib.nullcontext():
            yield
    finally:
        job.holds -= 1
        if job.holds == 0:
            job.handle_signals()


def clean_up_may_take(seconds: float) -> None:
    """Let the job that runs take so many seconds between the first signal and its end, in place of ``CLEAN_UP_S``."""
    if _job is not None:
        _job.clean_up_s = seconds


def is_ending() -> bool:
    """Whether a signal has come, after which this process and all below it end."""
    return _job is not None and _job.received is not None


class _SignalledJob:
    """The handlers of a job, and the thread that watches that it ends."""

    def __init__(self, name: str, goes_on: bool) -> None:
        self._name, self._goes_on = name, goes_on
        self.received: signal.Signals | None = None
        """The first signal that came."""
        self.holds = 0
        """How many of :func:`signals_held` are open."""
        self.clean_up_s = CLEAN_UP_S
        self._raised = False
        self._said = threading.Lock()
        self._bytes, wakeup = os.pipe()
        os.set_blocking(wakeup, False)
        self._wakeup = wakeup
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._wakeup_before = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        _adopt_orphans(True)
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="signals")
        self._watcher.start()
        self.handle_signals()

    def handle_signals(self) -> None:
        """Set the handlers, and raise what has been held."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        if self.received is not None:
            self._interrupt()

    def leave(self) -> None:
        """End the process if a signal has come; else leave all as it was."""
        self.holds += 1  # nothing is raised any more
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._wakeup)
        self._watcher.join()  # it reads what is left; a signal that another handler took counts too
        if self.received is not None:
            self._end(self.received)
        os.close(self._bytes)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        _adopt_orphans(False)
        atexit.register(_ignore_signals)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        if not self.holds:
            self._interrupt()

    def _interrupt(self) -> None:
        if not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    def _watch(self) -> None:
        """Note the first signal; end the process at a second one, or when cleaning up takes too long."""
        first: float | None = None
        while True:
            left = None if first is None else max(0.0, first + self.clean_up_s - time.monotonic())
            if not select.select([self._bytes], [], [], left)[0]:
                assert self.received is not None
                self._end(self.received, f" {self.clean_up_s:g} s after it, before it had cleaned up")
            if not (numbers := os.read(self._bytes, 64)):
                return
            for number in numbers:
                if number not in _SIGNALS:
                    continue
                if first is None:
                    first = time.monotonic()
                    self.received = self.received or signal.Signals(number)
                elif time.monotonic() - first > SAME_REQUEST_S:
                    self._end(signal.Signals(number), " at once, since it came a second time")

    def _end(self, number: signal.Signals, how: str = "") -> NoReturn:
        """Say so, kill what is below, and exit without Python's clean-up, where Ray would wait for what was killed."""
        if self._said.acquire(blocking=False):
            sentence = f"{self._name} was ended by {number.name}{how}{GOES_ON if self._goes_on else ''}\n"
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                sys.stderr.flush()
                os.write(2, sentence.encode())
        _kill_descendants()
        os._exit(128 + number)


_job: _SignalledJob | None = None


@contextlib.contextmanager
def _sigterm_put_back() -> Iterator[None]:
    """Within it a thread puts the process's action for SIGTERM back; only the main thread could by ``signal.signal``."""
    library = ctypes.CDLL(None)
    action = ctypes.create_string_buffer(256)  # room for C's struct sigaction, of 152 bytes at most
    library.sigaction(int(signal.SIGTERM), None, action)
    left = threading.Event()

    def put_back() -> None:
        while not left.wait(0.002):
            library.sigaction(int(signal.SIGTERM), action, None)

    thread = threading.Thread(target=put_back, daemon=True, name="sigterm")
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()


def _forget_job() -> None:
    """In a forked child, whose signals are its own: without this they would be told to the parent's thread."""
    global _job
    if _job is not None:
        _job = None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


os.register_at_fork(after_in_child=_forget_job)


def _ignore_signals() -> None:
    """The work is done, and its exit code is known; Python's own end takes seconds where torch and Ray are loaded."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _adopt_orphans(adopt: bool) -> None:
    """Whether processes below whose parent ends become this one's children, and not those of process 1."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def _kill_descendants() -> None:
    """Kill the children, and their children, which become this one's, until there are none.

    Elsewhere than on Linux it does nothing: Ray's own reaper ends its processes there.
    """
    until = time.monotonic() + _KILL_S
    while sys.platform == "linux" and time.monotonic() < until:
        for child in _children():
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:  # none is left
            return
        time.sleep(0.01)


def _children() -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parent = file.read_bytes().rpartition(b")")[2].split()[1]
            if int(parent) == os.getpid():
                found.append(int(file.parent.name))
    return found
