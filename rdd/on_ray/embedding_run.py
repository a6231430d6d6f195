"""The graph of an embedding on the records that no earlier run has committed: progress, metrics, and an end to stalls."""

import errno
import functools
import logging
import os
import time
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from rdd.config import EmbedConfig
from rdd.embedding.resume import committed_keys, settle_commits
from rdd.on_ray.draining import DrainWatch
from rdd.on_ray.embedding_course import EmbeddingCourse
from rdd.on_ray.embedding_graph import Sizes
from rdd.on_ray.embedding_progress import Report, run_watched, start_ledger
from rdd.progress import StallClock
from rdd.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

STEPS = ("read", "decode", "encode")


def run_missing(
    index: pa.Table,
    output: str,
    pool: EmbedConfig,
    *,
    sizes: Callable[[pa.Table], Sizes],
    write: Callable[[pa.Table, Sizes, Report], None],
    start_timeout_s: float,
    tracker: Tracker,
    verb: str = "embed",
) -> None:
    """Run the graph to its end on what is missing.

    Args:
        index: all records (``schema.INDEX``).
        output: directory that is written.
        pool: of the encoders; how long nothing may move.
        sizes: how the work on some records is cut.
        write: runs the graph on some records; it reports the steps of ``STEPS``, ``load`` and ``reject``.
        start_timeout_s: seconds for the encoders to start.
        tracker: of the MLflow run.
        verb: what is done to the records, for the log.

    Raises:
        RuntimeError: the work failed or stalled, or a disk is full.
    """
    settle_commits(output)
    missing = index.filter(pc.invert(pc.is_in(index["key"], value_set=committed_keys(output))))
    if not missing.num_rows:
        logger.info("0 of %d records to %s", index.num_rows, verb)
        return
    cut = sizes(missing)
    logger.info(
        "%d of %d records to %s; commits of %d records, which is what a killed run does again",
        missing.num_rows,
        index.num_rows,
        verb,
        cut.commit,
    )
    ledger = start_ledger()
    done = index.num_rows - missing.num_rows
    course = EmbeddingCourse(tracker, ledger, done=done)
    started = time.monotonic()
    try:
        run_watched(
            functools.partial(write, missing, cut, Report(ledger)),
            ledger,
            steps=STEPS,
            total=index.num_rows,
            done=done,
            clock=StallClock(stall_timeout_s=pool.stall_timeout_s, start_timeout_s=start_timeout_s),
            drains=DrainWatch(start_timeout_s),
            on_counts=course.on_counts,
        )
    except RuntimeError as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise RuntimeError(
            f"a disk is full while {output} is written ({error}); make room and start the same command again"
        ) from error
    course.end(missing.num_rows)
    rate = missing.num_rows / (time.monotonic() - started)
    logger.info("%.2f records a second; a kill would have cost about %.0f s of work", rate, cut.commit / rate)
