"""Fetching D3's real images on Ray: one row a record, in the order of the records, in files that are committed one by one.

The driver reads the addresses, deals consecutive records to workers, and when all are there, plans what only the whole can tell
(placeholders, repeated addresses). What it keeps in its directory is enough for the same command to go on after any kill.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import ray

from rdd import storage
from rdd.config import Config
from rdd.config.stages import FETCH
from rdd.data.block_list import BlockList, read_block_list, read_excluded_ids
from rdd.data.d3_urls import list_records
from rdd.data.fetch_report import summarize, write_report
from rdd.data.fetch_whole import Change, placeholder_hashes, plan_changes, read_described
from rdd.data.fetched import (
    Part,
    begin_round,
    committed,
    current_round,
    delete_uncommitted,
    keep_addresses,
    missing_parts,
    parts_of,
    slices,
)
from rdd.data.hub import bring_records
from rdd.on_ray.fetch_dispatch import Dispatch
from rdd.on_ray.fetch_worker import start_workers
from rdd.on_ray.host_leases import start_shards
from rdd.on_ray.session import ray_session
from rdd.runs.stage import StageRun, begun, finished
from rdd.tracking.course import Course

logger = logging.getLogger(__name__)

_TIMES_DEALT = 2
"""Once, and again for what the workers of a killed run have upset in their last moments."""


def run_fetch(config: Config) -> dict[str, Any]:
    """Fetch the real images of D3's records; started again, it goes on; finished, it says what there is.

    Returns:
        ``output``, ``records``, ``ok``, ``failed``, ``survival`` (ok over records), ``status`` (records by outcome),
        ``placeholder_images``, ``round``.

    Raises:
        ValueError: the request is wrong; nothing has been asked for.
        RuntimeError: the work failed, stalled, or brought no image at all.
    """
    fetch = config.fetch
    if config.records.kind != "d3":
        raise ValueError(f"records.kind must be d3, whose records hold addresses of real images, got {config.records.kind}")
    result = finished(FETCH, config)
    blocked, excluded = read_block_list(fetch.block_list), read_excluded_ids(fetch.excluded_ids)
    if result is not None and not fetch.retry_failed and result["block_list"] == blocked.identity:
        return result
    _say_loud(config)
    if result is None and fetch.hub:
        bring_records(fetch.hub, fetch.hub_files, config.records.path)
    files = list_records(config.records.path)
    bundles = [{"CPU": fetch.cpus_per_worker}] * fetch.num_workers
    with (
        ray_session(config.cluster, bundles, knobs="fetch.num_workers or fetch.cpus_per_worker"),
        begun(FETCH, config) as stage,
    ):
        addresses = keep_addresses(files, excluded, stage.output)
        parts = parts_of(addresses.num_rows, fetch.records_per_file)
        number = _round(fetch.retry_failed, parts, stage.output)
        result_file = storage.join(stage.output, FETCH.result_file)
        if storage.exists(result_file):
            storage.delete_file(result_file)  # until this round is finished, too
        run = _Run(config, stage, addresses, parts, blocked)
        run.fetch_missing(number)
        table, placeholders = run.finish_whole()
        summary = summarize(stage.output, table, placeholders, round_number=number, blocked=blocked)
        folder = write_report(stage.output, table)
        _draw(folder, table)
        if not summary["ok"]:
            raise RuntimeError(
                f"none of {summary['records']} images could be fetched ({summary['status']}); when the reason is gone, "
                "the same command with --fetch.retry_failed true asks again for those that may pass"
            )
        numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
        stage.tracker.metrics(numbers | {f"status/{name}": count for name, count in summary["status"].items()}, step=number)
        stage.tracker.artefacts(folder, "report")
        return stage.finish(summary)


def _draw(folder: str, table: pa.Table) -> None:
    from rdd.evaluation.fetch_figures import save_fetch_figures  # imports torch for seconds, and is needed at the end alone

    save_fetch_figures(folder, table)


def _say_loud(config: Config) -> None:
    """Warn of settings that are for tests, or against the wish of those whose images are fetched."""
    if config.fetch.allow_loopback:
        logger.warning("fetch.allow_loopback is on: addresses may lead to services of this machine; it is for tests alone")
    if not config.fetch.honour_directives:
        logger.warning(
            "fetch.honour_directives is off: images are kept whose owners forbid it (noai, noimageai, noindex, noimageindex)"
        )
    if config.fetch.per_host == 0:
        logger.warning("fetch.per_host is 0: servers are asked without any limit, which none but your own should be")


def _round(retry_failed: bool, parts: list[Part], output: str) -> int:
    """The round to work in: a further one where it is asked for and the one before is finished."""
    number, done = current_round(output), committed(output)
    if not retry_failed:
        return number
    if all((part.name, number) in done for part in parts):
        number += 1
        begin_round(output, number)
        logger.info("round %d: what failed for a reason that may pass is asked for again", number)
    else:
        logger.info("round %d is not finished and goes on; --fetch.retry_failed begins another one afterwards", number)
    return number


class _Run:
    """A fetch at work."""

    def __init__(self, config: Config, stage: StageRun, addresses: pa.Table, parts: list[Part], blocked: BlockList) -> None:
        self._config, self._output, self._blocked = config, stage.output, blocked
        self._tracker = stage.tracker
        self._addresses, self._parts = addresses, parts
        self._blocked_ref = ray.put(blocked)
        self._dispatch: Dispatch | None = None

    def fetch_missing(self, number: int) -> None:
        """Fetch and commit the files that this round lacks."""
        delete_uncommitted(self._output)
        for _ in range(_TIMES_DEALT):
            missing = missing_parts(self._output, self._parts, number)
            if not missing:
                return
            logger.info("%d records, %d of %d files to fetch", self._addresses.num_rows, len(missing), len(self._parts))
            calls = (self._fetch_call(part, rows, number) for part, rows in self._with_rows(missing))
            images = sum(part.rows for part in missing)
            course = Course(self._tracker, "images", done=self._addresses.num_rows - images)
            self._workers().run(calls, total=len(missing), images=images, what="fetching", course=course)
        if missing_parts(self._output, self._parts, number):
            raise RuntimeError(f"files of {self._output} vanish while it is fetched; see that nobody else works in it")

    def finish_whole(self) -> tuple[pa.Table, pa.Array]:
        """Say what only the whole can tell, in the files that it changes."""
        first = self._addresses["first"].combine_chunks()
        table = read_described(self._output, self._parts)
        placeholders = placeholder_hashes(table, first, self._config.fetch.placeholder_urls)
        changes = plan_changes(table, first, placeholders, self._blocked, self._config.fetch.records_per_file)
        if not changes:
            return table, placeholders
        logger.info("%d of %d files hold placeholders, repeated addresses or what is blocked", len(changes), len(self._parts))
        calls = (self._change_call(number, change, placeholders) for number, change in changes.items())
        self._workers().run(calls, total=len(changes), images=0, what="placeholders and repeated addresses")
        return read_described(self._output, self._parts), placeholders

    def _workers(self) -> Dispatch:
        if self._dispatch is None:
            shards = start_shards(self._config.fetch)
            workers = start_workers(self._config.fetch, self._output, self._blocked_ref, shards)
            self._dispatch = Dispatch(workers, shards, self._config)
        return self._dispatch

    def _with_rows(self, parts: list[Part]) -> Iterable[tuple[Part, pa.Table]]:
        return zip(parts, slices(self._addresses, parts), strict=True)

    def _fetch_call(self, part: Part, rows: pa.Table, number: int) -> Callable[[Any], "ray.ObjectRef"]:
        return lambda worker: worker.fetch.remote(part, rows, number)

    def _change_call(self, number: int, change: Change, placeholders: pa.Array) -> Callable[[Any], "ray.ObjectRef"]:
        needed = {number, *(source for source, _ in change.same_url.values())}
        parts = {needed_number: self._parts[needed_number] for needed_number in needed}
        return lambda worker: worker.change.remote(parts, number, change, placeholders)
