"""Files dealt to the workers of a fetch, with progress in the log, and the end of the job when nothing moves.

A worker that does not answer is given nothing more until it does, and its calls are made again elsewhere: when a whole machine
goes, Ray 2.60 needs some 15 s to see it, and calls to its actors end as "unavailable" long before, whatever retries they have.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ray

from rdd.config import Config
from rdd.on_ray.background import POLL_S, REPORT_S, root_cause
from rdd.on_ray.draining import DrainWatch
from rdd.on_ray.session import resources_held
from rdd.progress import StallClock
from rdd.tracking.course import Course

logger = logging.getLogger(__name__)

Call = Callable[[Any], "ray.ObjectRef"]
"""Takes a worker and begins the work on one file."""

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
        self._progress = dict.fromkeys(range(len(workers)), (0, 0, 0))
        self._nodes = dict.fromkeys(range(len(workers)), "")
        self._silent: set[int] = set()
        self._drains = DrainWatch(config.cluster.start_timeout_s)
        self._started = False

    def run(self, calls: Iterable[Call], *, total: int, images: int, what: str, course: Course | None = None) -> None:
        """Make every call and wait for all.

        Args:
            calls: one for each file.
            total: how many there are.
            images: how many images they ask for at most, for the log.
            what: words for the log.
            course: where images a second are logged to MLflow.

        Raises:
            RuntimeError: one failed, or nothing has moved for too long; what is waited for is named.
        """
        clock = StallClock(
            stall_timeout_s=self._config.fetch.stall_timeout_s,
            start_timeout_s=0.0 if self._started else self._config.cluster.start_timeout_s,
        )
        waiting, running, done = _Waiting(calls), dict[ray.ObjectRef, tuple[int, Call]](), 0
        asked_before, failed_before = self._asked(), self._failed()
        clock.observe((done, *self._progress.values()))
        started = reported = time.monotonic()
        self._deal(waiting, running)
        while running or waiting.again:
            finished, _ = ray.wait(list(running), num_returns=len(running), timeout=POLL_S) if running else ([], [])
            for result in finished:
                number, call = running.pop(result)
                if self._succeeded(result, number):
                    done += 1
                    self._started = True
                else:
                    waiting.again.append(call)
            self._drains.look(clock)
            self._deal(waiting, running)
            self._poll()
            clock.observe((done, *self._progress.values()))
            if (limit := clock.stalled_s()) is not None:
                raise RuntimeError(self._stalled(what, limit, total - done))
            if course is not None and course.due():
                course.log(self._asked() - asked_before, counts={"progress/failed": self._failed() - failed_before})
            if time.monotonic() - reported >= REPORT_S:
                reported = time.monotonic()
                asked, rate = self._asked() - asked_before, (self._asked() - asked_before) / (reported - started)
                logger.info(
                    "%s: %d of %d files, %d of %d images asked for, %.1f a second", what, done, total, asked, images, rate
                )
        if course is not None:
            course.end(self._asked() - asked_before, counts={"progress/failed": self._failed() - failed_before})

    def _deal(self, waiting: "_Waiting", running: dict["ray.ObjectRef", tuple[int, Call]]) -> None:
        """Give every worker that stays as many calls as it takes, the least busy one first."""
        has = Counter(number for number, _ in running.values())
        busy = {number: has[number] for number in self._staying()}
        while busy and busy[number := min(busy, key=lambda worker: busy[worker])] < self._config.fetch.files_per_worker:
            call = waiting.next()
            if call is None:
                return
            running[call(self._workers[number])] = number, call
            busy[number] += 1

    def _staying(self) -> list[int]:
        """Workers that answer, without those whose node is being drained where there are others."""
        answering = [number for number in self._nodes if number not in self._silent]
        return [number for number in answering if self._nodes[number] not in self._drains.nodes] or answering

    def _succeeded(self, result: "ray.ObjectRef", number: int) -> bool:
        """Whether the call to a worker has done its work; False if the worker does not answer.

        Raises:
            RuntimeError: the work failed.
        """
        try:
            ray.get(result)
        except ray.exceptions.ActorUnavailableError:
            if number not in self._silent:
                logger.info("worker %d does not answer; its files are fetched by others, or by itself when it is back", number)
            self._silent.add(number)
            return False
        except ray.exceptions.RayError as error:
            raise root_cause(error) from error
        return True

    def _asked(self) -> int:
        return sum(asked for asked, _, _ in self._progress.values())

    def _failed(self) -> int:
        return sum(failed for _, failed, _ in self._progress.values())

    def _poll(self) -> None:
        """What the workers have done; of one that does not answer, what it said last."""
        answers = {worker.progress.remote(): number for number, worker in enumerate(self._workers)}
        ready, _ = ray.wait(list(answers), num_returns=len(answers), timeout=POLL_S)
        for answer in ready:
            try:
                *progress, node = ray.get(answer)
            except ray.exceptions.RayError:  # it is being started anew
                continue
            number = answers[answer]
            self._progress[number], self._nodes[number] = tuple(progress), node
            self._silent.discard(number)

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


class _Waiting:
    """Calls that are still to be made, those first that must be made again."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self._calls = iter(calls)  # not a list: each holds the addresses of its records
        self.again: list[Call] = []

    def next(self) -> Call | None:
        """The next call; None when there is none."""
        return self.again.pop() if self.again else next(self._calls, None)
