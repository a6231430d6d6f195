"""Files dealt to the workers of a fetch, with progress in the log, and the end of the job when nothing moves."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ray

from rdd.config import Config
from rdd.on_ray.background import POLL_S, REPORT_S, root_cause
from rdd.on_ray.session import resources_held
from rdd.progress import StallClock

logger = logging.getLogger(__name__)

_HOSTS_NAMED = 3
"""In the message of a stall."""


class Dispatch:
    """Deals calls to workers, each of which has a few at the same time.

    Args:
        workers: actors of :class:`~rdd.on_ray.fetch_worker.FetchWorker`.
        shards: actors that keep the leases of hosts.
        config: the request.
    """

    def __init__(
        self, workers: Sequence["ray.actor.ActorHandle"], shards: Sequence["ray.actor.ActorHandle"], config: Config
    ) -> None:
        self._workers, self._shards, self._config = workers, shards, config
        self._progress = dict.fromkeys(range(len(workers)), (0, 0))
        self._started = False

    def run(self, calls: Iterable[Callable[[Any], "ray.ObjectRef"]], *, total: int, images: int, what: str) -> None:
        """Make every call and wait for all.

        Args:
            calls: each takes a worker and begins the work on one file.
            total: how many there are.
            images: how many images they ask for at most, for the log.
            what: words for the log.

        Raises:
            RuntimeError: one failed, or nothing has moved for too long; what is waited for is named.
        """
        clock = StallClock(
            stall_timeout_s=self._config.fetch.stall_timeout_s,
            start_timeout_s=0.0 if self._started else self._config.cluster.start_timeout_s,
        )
        waiting, running, done = iter(calls), dict[ray.ObjectRef, int](), 0
        asked_before = self._asked()
        clock.observe((done, *self._progress.values()))
        started = reported = time.monotonic()
        self._deal(waiting, running)
        while running:
            finished, _ = ray.wait(list(running), num_returns=len(running), timeout=POLL_S)
            for call in finished:
                del running[call]
                done += 1
                self._started = True
                self._result(call)
            self._deal(waiting, running)
            self._poll()
            clock.observe((done, *self._progress.values()))
            if (limit := clock.stalled_s()) is not None:
                raise RuntimeError(self._stalled(what, limit, total - done))
            if time.monotonic() - reported >= REPORT_S:
                reported = time.monotonic()
                asked, rate = self._asked() - asked_before, (self._asked() - asked_before) / (reported - started)
                logger.info(
                    "%s: %d of %d files, %d of %d images asked for, %.1f a second", what, done, total, asked, images, rate
                )

    def _deal(self, waiting: Iterator[Callable[[Any], "ray.ObjectRef"]], running: dict["ray.ObjectRef", int]) -> None:
        """Give every worker as many calls as it takes, the least busy one first."""
        busy = dict.fromkeys(range(len(self._workers)), 0)
        for number in running.values():
            busy[number] += 1
        while busy[number := min(busy, key=lambda worker: busy[worker])] < self._config.fetch.files_per_worker:
            call = next(waiting, None)
            if call is None:
                return
            running[call(self._workers[number])] = number
            busy[number] += 1

    def _result(self, call: "ray.ObjectRef") -> None:
        try:
            ray.get(call)
        except ray.exceptions.RayError as error:
            raise root_cause(error) from error

    def _asked(self) -> int:
        return sum(asked for asked, _ in self._progress.values())

    def _poll(self) -> None:
        """What the workers have done; of one that does not answer, what it said last."""
        answers = {worker.progress.remote(): number for number, worker in enumerate(self._workers)}
        ready, _ = ray.wait(list(answers), num_returns=len(answers), timeout=POLL_S)
        for answer in ready:
            try:
                self._progress[answers[answer]] = ray.get(answer)
            except ray.exceptions.RayError:  # it is being started anew
                continue

    def _stalled(self, what: str, limit: float, left: int) -> str:
        hosts: dict[str, int] = {}
        for shard in self._shards:
            try:
                hosts |= ray.get(shard.waiting_for.remote(), timeout=POLL_S)
            except ray.exceptions.RayError:
                continue
        longest = sorted(hosts, key=lambda host: hosts[host], reverse=True)[:_HOSTS_NAMED]
        named = f"waiting for {', '.join(longest)}" if longest else "no host is waited for"
        return (
            f"nothing was fetched or written for {limit:g} s: stuck in {what}, {left} files left, {named}, "
            f"held: {resources_held()}; the same command goes on where it stopped"
        )
