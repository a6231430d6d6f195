"""Two sides of a comparison, alternated in one run."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ROUNDS = 7


@dataclass(frozen=True)
class Figure:
    """One measured number and the bar that it has to reach, if there is one."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    @property
    def bar(self) -> str:
        """The bar, for a person."""
        if self.at_least is None and self.at_most is None:
            return "no bar"
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"

    @property
    def reached(self) -> bool:
        """Whether the number reaches its bar."""
        return (self.at_least is None or self.value >= self.at_least) and (self.at_most is None or self.value <= self.at_most)


@dataclass(frozen=True)
class Skipped:
    """A number that can not be measured here."""

    name: str
    reason: str


Group = Callable[[Path], Iterable[Figure | Skipped]]
"""Figures that are measured together; gets a folder of its own."""


def seconds(work: Callable[[], object]) -> float:
    """Time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def times_as_fast(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median time of ``theirs`` over that of ``ours``, alternated call by call after one round of warming up."""
    sides: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for times, work in zip(sides, (ours, theirs), strict=True):
            times.append(seconds(work))
    return statistics.median(sides[1][1:]) / statistics.median(sides[0][1:])
