"""The index of a source: one row a record, made before any image is read."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rdd.data.parquet_rows import UNREADABLE
from rdd.schema import INDEX


def make_index(columns: dict[str, Any]) -> pa.Table:
    """Index table from lists; columns that are not given are null."""
    rows = len(columns["key"])
    return pa.table({field.name: columns.get(field.name, pa.nulls(rows, field.type)) for field in INDEX}, schema=INDEX)


def images_of_files(index: pa.Table) -> np.ndarray:
    """``(N,)`` images of each record whose images are files or rows of their own; none where it is rejected already."""
    rows = np.asarray(pc.list_value_length(index["rows"]))
    return np.where(np.asarray(pc.is_null(index["reason"])), rows, 0)


def first_records(index: pa.Table, limit: int) -> pa.Table:
    """The first records of an index, those already rejected among them; all where the limit is 0."""
    return index.slice(0, limit) if limit else index


def mark_bad_ids(record_ids: list[str | None], unreadable: list[str | None]) -> dict[str, list[str | None]]:
    """Rejection columns for ids that are null or can not be read, and for every id but its first.

    Args:
        record_ids: of each row.
        unreadable: of each row, why its id can not be read, if it can not.
    """
    seen: set[str] = set()
    reasons: list[str | None] = []
    details: list[str | None] = []
    for record_id, why in zip(record_ids, unreadable, strict=True):
        details.append(why)
        if why is not None:
            reasons.append(UNREADABLE)
        elif record_id is None:
            reasons.append("null_id")
        elif record_id in seen:
            reasons.append("duplicate_id")
            details[-1] = f"{record_id!r} stands earlier in the set"
        else:
            seen.add(record_id)
            reasons.append(None)
    return {"stage": ["index" if reason else None for reason in reasons], "reason": reasons, "detail": details}
