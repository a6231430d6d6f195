"""What every source of records offers: an index made without reading an image, and the bytes of chosen records."""

from collections.abc import Iterator
from typing import Any, Protocol

import pyarrow as pa

from rdd.schema import INDEX, RAW


class Source(Protocol):
    """A set of labelled images, in records."""

    has_text: bool
    """Whether records have prompts."""

    def index(self) -> pa.Table:
        """One row a record (``schema.INDEX``), in a fixed order, with null and duplicate ids already marked.

        Raises:
            ValueError: there is nothing to read, or a column is missing or of another type.
        """

    def read(self, index: pa.Table) -> Iterator[pa.Table]:
        """Bytes of the records of some index rows, all of one ``source`` (tables of ``schema.RAW``, a few rows each)."""


def make_index(columns: dict[str, Any]) -> pa.Table:
    """Index table from lists; columns that are not given are null."""
    rows = len(columns["key"])
    return pa.table({field.name: columns.get(field.name, pa.nulls(rows, field.type)) for field in INDEX}, schema=INDEX)


def mark_bad_ids(record_ids: list[str | None]) -> dict[str, list[str | None]]:
    """Rejection columns for null ids and for every id but its first."""
    seen: set[str] = set()
    reasons: list[str | None] = []
    for record_id in record_ids:
        if record_id is None:
            reasons.append("null_id")
        elif record_id in seen:
            reasons.append("duplicate_id")
        else:
            seen.add(record_id)
            reasons.append(None)
    details = [
        f"{record_id!r} stands earlier in the set" if reason == "duplicate_id" else None
        for record_id, reason in zip(record_ids, reasons, strict=True)
    ]
    return {"stage": ["index" if reason else None for reason in reasons], "reason": reasons, "detail": details}


def rejection(stage: str, reason: str, detail: str | None) -> dict[str, str | None]:
    """Columns of a row that is kept aside."""
    return {"stage": stage, "reason": reason, "detail": detail}


def split_rejected(index: pa.Table) -> tuple[list[pa.Table], list[dict[str, Any]]]:
    """Index rows already rejected, as rows of ``schema.RAW`` that pass through unread, and the places of the others."""
    entries = index.to_pylist()
    place = ("key", "source", "row", "record_id")
    rejected = [{name: entry.get(name) for name in (*place, "stage", "reason", "detail")} for entry in entries if entry["reason"]]
    wanted = [{name: entry[name] for name in INDEX.names if name in entry} for entry in entries if not entry["reason"]]
    return [pa.Table.from_pylist(rejected, schema=RAW)] if rejected else [], wanted
