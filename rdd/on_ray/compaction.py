"""The files of an embedding's commits rewritten to files of a stated size, one Ray task each; a single one is written here."""

import logging
import time

import pyarrow as pa
import ray

from rdd.config import Config
from rdd.embedding.compact import Compaction, NewFile, delete_sources, missing_files, write_new_file
from rdd.embedding.output import parquet_options
from rdd.on_ray.background import POLL_S, REPORT_S, root_cause
from rdd.on_ray.session import resources_held
from rdd.progress import StallClock

logger = logging.getLogger(__name__)


def compact(plan: Compaction, index: pa.Table, output: str, config: Config) -> None:
    """Do what is left of a plan: write the files that are not there yet, then delete those of the commits.

    Args:
        plan: of :func:`rdd.embedding.compact.plan_compaction`.
        index: all records (``schema.INDEX``).
        output: directory of the embedding.
        config: of the embedding.

    Raises:
        RuntimeError: a file of the commits is damaged, there is no room, or nothing has moved for too long.
    """
    missing = missing_files(plan, output)
    options, keys = parquet_options(config), index["key"]
    if len(missing) == 1:
        write_new_file(missing[0], keys, output, options, plan.rows_per_group)
    elif missing:
        shared = ray.put((keys, output, options, plan.rows_per_group))
        write = ray.remote(num_cpus=config.embed.cpus_per_task, scheduling_strategy="SPREAD")(_write)
        _wait_for([write.remote(file, [shared]) for file in missing], config)
    delete_sources(plan, output)


def _write(file: NewFile, shared: "list[ray.ObjectRef]") -> None:
    keys, output, options, rows_per_group = ray.get(shared[0])
    write_new_file(file, keys, output, options, rows_per_group)


def _wait_for(running: "list[ray.ObjectRef]", config: Config) -> None:
    """Wait until all files are written, with progress in the log."""
    total, reported = len(running), time.monotonic()
    stall_s, start_s = config.embed.stall_timeout_s, config.cluster.start_timeout_s
    clock = StallClock(stall_timeout_s=stall_s, start_timeout_s=start_s)
    while running:
        done, running = ray.wait(running, num_returns=len(running), timeout=POLL_S)
        try:
            ray.get(done)
        except ray.exceptions.RayError as error:
            raise root_cause(error) from error
        clock.observe(len(running))
        if (limit := clock.stalled_s()) is not None:
            raise RuntimeError(
                f"no file for {limit:g} s: stuck in rewriting files of commits ({total - len(running)} of {total} done), "
                f"held: {resources_held()}; the same command goes on where it stopped"
            )
        if time.monotonic() - reported >= REPORT_S:
            reported = time.monotonic()
            logger.info("%d of %d files of features rewritten", total - len(running), total)
