"""A job as a process whose memory is watched, that can be killed in two ways, and what is left of it afterwards."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

MARK = "RDD_REHEARSAL"
_GONE_S = 60.0
_LOOK_EVERY_S, _WEIGH_EVERY_S = 0.1, 1.0

Way = Literal["driver", "machine"]
"""``driver``: kill -9 of the job's own process; ``machine``: of all its processes at once."""


@dataclass
class Attempt:
    """A start of the job, up to its end or its kill."""

    seconds: float = 0.0
    killed: Way | None = None
    first_commit_s: float | None = None
    """From the start to the first commit."""
    commits: int = 0
    left_behind: int = 0
    """Processes that were there after the kill."""
    said: str = ""
    """The line of the log that tells what there was to do."""


@dataclass
class StageRun:
    """All attempts of a stage."""

    attempts: list[Attempt] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    """What the job printed at its end."""
    seconds: float = 0.0
    driver_peak_mib: float = 0.0
    all_peak_mib: float = 0.0
    """Proportional set size of all processes together, those that a killed driver has left included."""


class WatchedJob:
    """Starts of one command.

    Args:
        name: of the stage.
        words: the command after the interpreter.
        folder: takes logs.
        commits: how many the stage has made since it was asked for the last time.
        tells: what the log's line about the work to do holds.
    """

    def __init__(self, name: str, words: Sequence[str], folder: Path, commits: Callable[[], int], tells: str = "to do") -> None:
        self._name, self._words, self._folder, self._commits, self._tells = name, words, folder, commits, tells
        self._mark = f"{folder}/{name}"
        self._weighed = 0.0
        self.result = StageRun()

    def run_to_end(self) -> StageRun:
        """Start it, and wait for its end.

        Raises:
            RuntimeError: it failed, or left processes behind.
        """
        attempt, process, log = self._start()
        while process.poll() is None:
            self._look(process, attempt)
        self._note(attempt, log)
        if process.returncode:
            raise RuntimeError(f"{self._name} ended with {process.returncode}: {log.read_text()[-3000:]}")
        self.result.summary = json.loads((self._folder / f"{self._name}.json").read_text().splitlines()[-1])
        self._wait_until_gone()
        return self.result

    def run_until(self, reached: Callable[[int], bool], way: Way) -> None:
        """Start it, and kill it at a moment.

        Args:
            reached: whether the moment has come, by the commits since the start.
            way: how it is killed.

        Raises:
            RuntimeError: it ended before.
        """
        attempt, process, log = self._start()
        while not reached(attempt.commits):
            if process.poll() is not None:
                raise RuntimeError(f"{self._name} ended before it was killed: {log.read_text()[-3000:]}")
            self._look(process, attempt)
        attempt.killed = way
        for pid in [process.pid] if way == "driver" else [process.pid, *self._alive()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(30)
        attempt.left_behind = len(self._alive())
        self._note(attempt, log)

    def _start(self) -> tuple[Attempt, subprocess.Popen[bytes], Path]:
        attempt = Attempt(seconds=time.monotonic())
        self.result.attempts.append(attempt)
        log = self._folder / f"{self._name}-{len(self.result.attempts)}.log"
        with open(log, "wb") as err, open(self._folder / f"{self._name}.json", "wb") as out:
            process = subprocess.Popen(
                [sys.executable, *self._words],
                stdout=out,
                stderr=err,
                env=os.environ | {MARK: self._mark},
                start_new_session=True,
            )
        self._commits()
        return attempt, process, log

    def _look(self, process: subprocess.Popen[bytes], attempt: Attempt) -> None:
        time.sleep(_LOOK_EVERY_S)
        attempt.commits += self._commits()
        if attempt.commits and attempt.first_commit_s is None:
            attempt.first_commit_s = time.monotonic() - attempt.seconds
        if time.monotonic() < self._weighed + _WEIGH_EVERY_S:
            return
        self._weighed, result = time.monotonic(), self.result
        result.driver_peak_mib = max(result.driver_peak_mib, _kib(process.pid, "status", "VmHWM") / 1024)
        result.all_peak_mib = max(result.all_peak_mib, sum(_kib(pid, "smaps_rollup", "Pss") for pid in self._alive()) / 1024)

    def _note(self, attempt: Attempt, log: Path) -> None:
        attempt.seconds = time.monotonic() - attempt.seconds
        self.result.seconds += attempt.seconds
        said = [line for line in log.read_text(errors="replace").splitlines() if self._tells in line]
        attempt.said = said[0] if said else ""

    def _alive(self) -> list[int]:
        """Processes of any attempt: they have its mark in their environment."""
        mark, found = f"{MARK}={self._mark}".encode(), []
        for file in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in file.read_bytes().split(b"\0"):
                    found.append(int(file.parent.name))
        return found

    def _wait_until_gone(self) -> None:
        deadline = time.monotonic() + _GONE_S
        while (left := self._alive()) and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
        if left:
            raise RuntimeError(f"{self._name} has left {len(left)} processes behind: {left}")

    def end_all(self) -> None:
        """Kill what is there, when the rehearsal itself fails."""
        for pid in self._alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _kib(pid: int, file: str, name: str) -> int:
    """A line of /proc; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
