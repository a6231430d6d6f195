"""The index of a source: one row a record, made before any image is read."""

from typing import Any

import pyarrow as pa

from rdd.schema import INDEX


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
