"""Progress of an embedding: counts of records that its workers report, and the end of the job when none come."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rdd.on_ray.background import POLL_S, Background
from rdd.on_ray.draining import DrainWatch
from rdd.on_ray.session import resources_held
from rdd.progress import REPORT_S, StallClock
from rdd.resource_use import Use

logger = logging.getLogger(__name__)

T = TypeVar("T")

_UNTIL_LOADED_S = 0.2  # so that the log says soon when encoding begins


class Ledger:
    """Counts of records by step, and what the encoders have used, told by the workers."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._uses: dict[str, Use] = {}

    def add(self, step: str, count: int) -> None:
        """Count records that a step has done."""
        self._counts[step] = self._counts.get(step, 0) + count

    def counts(self) -> dict[str, int]:
        """Records done so far, by step."""
        return dict(self._counts)

    def note_use(self, encoder: str, use: Use) -> None:
        """Keep what an encoder has used so far."""
        self._uses[encoder] = use

    def uses(self) -> dict[str, Use]:
        """What each encoder has used, by its name, those that have ended among them."""
        return dict(self._uses)


def start_ledger() -> "ray.actor.ActorHandle":
    """Start a ledger that reserves no CPU, on the driver's node, so that it does not die with another node of the cluster."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Ledger).remote()


class Report:
    """Callback by which workers add to the ledger; picklable."""

    def __init__(self, ledger: "ray.actor.ActorHandle") -> None:
        self._ledger = ledger

    def __call__(self, step: str, count: int) -> None:
        """Count records that a step has done; nobody waits for it."""
        if count:
            self._ledger.add.remote(step, count)

    def use(self, encoder: str, use: Use) -> None:
        """Say what an encoder has used so far; nobody waits for it."""
        self._ledger.note_use.remote(encoder, use)


def run_watched(
    work: Callable[[], object],
    ledger: "ray.actor.ActorHandle",
    *,
    steps: Sequence[str],
    total: int,
    done: int,
    clock: StallClock,
    drains: DrainWatch,
    on_counts: Callable[[Mapping[str, int]], None] = lambda counts: None,
) -> None:
    """Run blocking Ray work, log its progress, and give up when nothing moves.

    Args:
        work: what to run; it goes on in a thread of its own, so that a hang can not hold the caller.
        ledger: the ledger that the workers report to.
        steps: names of the steps, first to last; progress is shown by the last.
        total: records of the whole job.
        done: records that earlier runs have finished.
        clock: observes the counts; when it finds a stall, the run ends. Its time to start is over at the first count.
        drains: sees nodes that are taken away, whose encoders begin elsewhere.
        on_counts: told the counts about every second.

    Raises:
        RuntimeError: the work failed or stalled; the step and the resources held are named.
    """
    background = Background(work)
    started = reported = time.monotonic()
    counts: dict[str, int] = {}
    clock.observe({})
    loaded = False
    while background.running(math.inf if loaded else _UNTIL_LOADED_S):
        now, counts = time.monotonic(), _counts(ledger, counts)
        drains.look(clock)
        if counts.get("load") and not loaded:
            loaded = True
            logger.info("an encoder is loaded: encoding begins")
        on_counts(counts)
        clock.observe(counts if counts.get("load") else {})  # reading may be ahead while the encoders still start
        if (limit := clock.stalled_s()) is not None:
            stuck = next((step for step in steps if counts.get(step, 0) + done < total), "write")
            reached = ", ".join(f"{step} {counts.get(step, 0)}" for step in steps)
            raise RuntimeError(
                f"no record for {limit:g} s: stuck in {stuck} ({reached} of {total - done} records), "
                f"held: {resources_held()}; the same command goes on where it stopped"
            )
        if now - reported >= REPORT_S:
            reported = now
            _log_progress(counts, steps, done, total, now - started)
    background.finish()


def _counts(ledger: "ray.actor.ActorHandle", last: dict[str, int]) -> dict[str, int]:
    """The ledger's counts, or the last ones if it does not answer in time."""
    return answer(ledger.counts.remote(), last)


def answer(asked: "ray.ObjectRef[T]", otherwise: T) -> T:
    """What an actor answers, or something else if it does not do so in time."""
    try:
        return ray.get(asked, timeout=10 * POLL_S)
    except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
        return otherwise


def _log_progress(counts: dict[str, int], steps: Sequence[str], done: int, total: int, seconds: float) -> None:
    count = counts.get(steps[-1], 0)
    if not count:
        logger.info("%s of %d records", ", ".join(f"{step} {counts.get(step, 0)}" for step in steps), total - done)
        return
    rate = count / seconds
    left = (total - done - count) / rate
    logger.info("%d of %d records, %.2f a second, %s left", done + count, total, rate, _duration(left))


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
