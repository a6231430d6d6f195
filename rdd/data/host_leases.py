"""Whose turn it is to ask a host: a lease is held for the time of one request, and no more than so many at the same time.

This is the book-keeping, in one event loop; :mod:`rdd.on_ray.host_leases` shares it over a cluster. A lease that is not given
back ends by itself, so that a killed process holds a host for no longer than one image may take.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

HOST_DOWN_LEASE = -1
"""In place of a lease: the host has failed too often, and is not asked any more."""


@dataclass(frozen=True)
class Report:
    """What a request tells of its host when its lease is given back."""

    pause_s: float = 0.0
    """Seconds, at least 0, for which the host wants to be left alone by everybody."""
    failed: bool | None = None
    """Whether nothing came back from the host; None where nothing was asked."""
    down: bool = False
    """Whether the host is not to be asked any more."""


class Leases(Protocol):
    """Where a fetcher asks for its turn."""

    async def acquire(self, host: str) -> int:
        """Wait for the turn; the lease, or ``HOST_DOWN_LEASE``."""

    def release(self, host: str, lease: int, report: Report) -> None:
        """Give a lease back."""


class NoLimit:
    """Every request is let through at once."""

    async def acquire(self, host: str) -> int:
        """A lease without meaning."""
        return 0

    def release(self, host: str, lease: int, report: Report) -> None:
        """Nothing."""


@dataclass
class _Host:
    held: dict[int, float] = field(default_factory=dict)
    """By lease, when it ends by itself."""
    waiting: deque[asyncio.Future[int]] = field(default_factory=deque)
    paused_until: float = 0.0
    failures: int = 0
    down: bool = False
    timer: asyncio.TimerHandle | None = None


class HostLeases:
    """Leases of hosts in one event loop; first come, first served.

    Args:
        per_host: leases of one host at the same time, at least 1.
        lease_s: seconds after which a lease ends by itself.
        max_failures: requests in a row without any answer after which a host is down for good; 0 for never.
    """

    def __init__(self, *, per_host: int, lease_s: float, max_failures: int) -> None:
        self._per_host, self._lease_s, self._max_failures = per_host, lease_s, max_failures
        self._hosts: dict[str, _Host] = {}
        self._numbers = itertools.count(1)

    def try_acquire(self, host: str) -> int | None:
        """A lease of a host, or ``HOST_DOWN_LEASE``, if there is nothing to wait for; else None."""
        state = self._hosts.setdefault(host, _Host())
        self._serve(host, state)
        self._hosts[host] = state  # which may just have been forgotten
        if state.down:
            return HOST_DOWN_LEASE
        return None if state.waiting or not self._is_free(state) else self._grant(state)

    async def acquire(self, host: str) -> int:
        """Wait for a lease of a host.

        Returns:
            The lease, a number above 0; or ``HOST_DOWN_LEASE``.
        """
        state = self._hosts.setdefault(host, _Host())
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        state.waiting.append(turn)
        self._serve(host, state)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # granted in the same moment
                self.release(host, turn.result(), Report())
            raise

    def release(self, host: str, lease: int, report: Report) -> None:
        """Give a lease back, or one that has ended already, and tell of the host."""
        state = self._hosts.get(host)
        if state is None:
            return
        state.held.pop(lease, None)
        if report.failed is not None:
            state.failures = state.failures + 1 if report.failed else 0
        state.down |= report.down or 0 < self._max_failures <= state.failures
        if report.pause_s > 0:
            state.paused_until = max(state.paused_until, _now() + report.pause_s)
        self._serve(host, state)

    def waiting_for(self) -> dict[str, int]:
        """How many wait for each host."""
        return {host: len(state.waiting) for host, state in self._hosts.items() if state.waiting}

    def _is_free(self, state: _Host) -> bool:
        return _now() >= state.paused_until and len(state.held) < self._per_host

    def _grant(self, state: _Host) -> int:
        lease = next(self._numbers)
        state.held[lease] = _now() + self._lease_s
        return lease

    def _serve(self, host: str, state: _Host) -> None:
        """Grant what can be granted now, and come back when the next thing can change by itself."""
        now = _now()
        for lease in [lease for lease, end in state.held.items() if end <= now]:
            del state.held[lease]
        while state.waiting:
            if state.waiting[0].done():  # whoever waited has gone
                state.waiting.popleft()
            elif state.down:
                state.waiting.popleft().set_result(HOST_DOWN_LEASE)
            elif self._is_free(state):
                state.waiting.popleft().set_result(self._grant(state))
            else:
                break
        if state.timer is not None:
            state.timer.cancel()
            state.timer = None
        if state.waiting:
            full = len(state.held) >= self._per_host
            at = max(state.paused_until, min(state.held.values()) if full else 0.0)
            state.timer = _call_at(at, lambda: self._serve(host, state))
        elif not (state.held or state.failures or state.down) and now >= state.paused_until:
            self._hosts.pop(host, None)  # nothing to remember, and there are hundreds of thousands of hosts


def _now() -> float:
    return asyncio.get_running_loop().time()


def _call_at(when: float, call: Callable[[], None]) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_at(when, call)
