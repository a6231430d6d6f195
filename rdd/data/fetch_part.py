"""One file of the table of real images: its records fetched, in any order, and written in theirs."""

import asyncio
import datetime
from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from rdd.data.outcomes import Outcome, may_pass
from rdd.schema import ADDRESSES, FETCHED

Row = dict[str, Any]


class CanFetch(Protocol):
    """A :class:`~rdd.data.fetch.Fetcher`."""

    async def fetch(self, address: str) -> Outcome:
        """The image behind an address, or why there is none."""


async def fetch_rows(
    addresses: pa.Table, before: pa.Table | None, fetcher: CanFetch, done: Callable[[Outcome], None]
) -> pa.Table:
    """Fetch the records of a file of the table, all at the same time.

    Args:
        addresses: ``schema.ADDRESSES`` of these records.
        before: the file as an earlier round left it; of it the rows are kept that have an image or will never have one.
        fetcher: what asks.
        done: called with each outcome.

    Returns:
        ``schema.FETCHED``, a row a record, in their order. Rows whose address stands earlier in the set have ``same_url``.
    """
    wanted = wanted_rows(addresses, before["status"] if before is not None else None)
    urls = addresses["url"].to_pylist()
    rows: dict[int, Row] = {}

    async def fetch(row: int) -> None:
        outcome = await fetcher.fetch(urls[row])
        rows[row] = _row(outcome)
        done(outcome)

    async with asyncio.TaskGroup() as group:
        for row in wanted:
            group.create_task(fetch(row))
    return _table(addresses, before, rows)


def wanted_rows(addresses: pa.Table, before: pa.ChunkedArray | None) -> list[int]:
    """Rows that are to be fetched: all that can be, or of an earlier round those that failed and may pass.

    Args:
        addresses: ``schema.ADDRESSES``.
        before: statuses of an earlier round.
    """
    wanted = [row for row, status in enumerate(addresses["status"].to_pylist()) if status is None]
    if before is None:
        return wanted
    statuses = before.to_pylist()
    return [row for row in wanted if may_pass(statuses[row])]


def _row(outcome: Outcome) -> Row:
    return {
        "bytes": outcome.data,
        "sha256": outcome.sha256,
        "content_type": outcome.content_type,
        "width": outcome.width,
        "height": outcome.height,
        "final_url": outcome.final_url,
        "status": outcome.status,
        "detail": outcome.detail,
        "attempts": outcome.attempts,
        "fetched_at": datetime.datetime.now(datetime.UTC),
    }


def _table(addresses: pa.Table, before: pa.Table | None, rows: dict[int, Row]) -> pa.Table:
    """The records with what came of them now, or before, or what was known beforehand."""
    if before is not None:
        kept = before.to_pylist()
    else:
        known = zip(addresses["status"].to_pylist(), addresses["detail"].to_pylist(), strict=True)
        kept = [{"status": status, "detail": detail, "attempts": 0} for status, detail in known]
    values = [rows.get(row, kept[row]) for row in range(addresses.num_rows)]
    columns = {name: addresses[name] for name in ADDRESSES.names if name in ("id", "url") or name.startswith("declared_")}
    fresh = {
        field.name: pa.array([value.get(field.name) for value in values], field.type)
        for field in FETCHED
        if field.name not in columns
    }
    return pa.table({**columns, **fresh}).select(FETCHED.names).cast(FETCHED)


def drop_images(table: pa.Table, which: pa.Array, status: str, detail: str) -> pa.Table:
    """Rows marked in ``which`` without their bytes, with another status; hash and size stay, to be counted by."""
    for name, value in (("bytes", None), ("status", status), ("detail", detail)):
        field = FETCHED.field(name)
        column = pc.if_else(which, pa.scalar(value, field.type), table[name])
        table = table.set_column(table.schema.get_field_index(name), field, column)
    return table
