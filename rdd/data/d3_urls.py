"""The addresses of D3's real images: one row a record, from a pass over the ids and addresses alone."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rdd import storage
from rdd.data.file_sets import parquet_files
from rdd.data.index import mark_bad_ids
from rdd.data.outcomes import SAME_URL
from rdd.data.parquet_rows import check_columns, open_parquet, read_rows, read_schema
from rdd.progress import logged
from rdd.schema import ADDRESSES, D3

_READ = pa.schema([D3.field("id"), D3.field("url")])
_DECLARED = {"declared_width": "width", "declared_height": "height"}
"""LAION's own metadata of the real image, which a copy of D3 may have been joined with."""

_ROWS_AT_A_TIME = 2**14
_READING_THREADS = 16  # a footer and some columns a file: latency of S3, not bandwidth


def list_records(path: str) -> list[storage.File]:
    """The Parquet files of records that a path names, see :func:`rdd.data.file_sets.parquet_files`.

    Raises:
        ValueError: it names none.
    """
    return [named.file for named in parquet_files(path)]


def read_addresses(files: Sequence[storage.File], excluded: frozenset[str]) -> pa.Table:
    """Id and address of every record, in the order of the files.

    Args:
        files: of D3's schema; of it only ``id`` and ``url`` are needed, and ``width`` and ``height`` are kept where they are.
        excluded: ids of records that are not fetched.

    Returns:
        ``schema.ADDRESSES``. Records that can not be fetched have a status already: ``unreadable``, ``null_id``,
        ``duplicate_id``, ``excluded``, ``null_url``; those whose address stands earlier in the set have ``same_url``.

    Raises:
        ValueError: a file is no Parquet, columns are missing or of another type, or there is no record.
    """
    with ThreadPoolExecutor(_READING_THREADS) as pool:
        tables = pool.map(_read_file, [file.path for file in files])
        table = pa.concat_tables(logged(tables, total=len(files), what="files of records"))
    if not table.num_rows:
        raise ValueError(f"the {len(files)} Parquet files of records hold no record")
    status, detail = _bad_records(table, excluded)
    first = _first_rows(table["url"], pc.is_null(status))
    repeated = pc.and_(pc.is_null(status), pc.not_equal(first, pa.array(np.arange(table.num_rows))))
    columns = {
        **{name: table[name] for name in ("id", "url", *_DECLARED)},
        "first": first,
        "status": pc.if_else(repeated, SAME_URL, status),
        "detail": detail,
    }
    return pa.table(columns, schema=ADDRESSES)


def _read_file(path: str) -> pa.Table:
    """Id, address and declared size of each row of a file, and in ``unreadable`` why a row can not be read."""
    schema = read_schema(path)
    check_columns(path, schema, _READ)
    kinds = {field.name: field.type for field in schema}
    declared = {ours: theirs for ours, theirs in _DECLARED.items() if pa.types.is_integer(kinds.get(theirs, pa.null()))}
    with open_parquet(path) as (file, _):
        number = file.metadata.num_rows
    parts = []
    columns = ["id", "url", *declared.values()]
    for rows, table in read_rows(path, range(number), columns, at_a_time=_ROWS_AT_A_TIME):
        if isinstance(table, str):
            parts.append(_part(len(rows), {"unreadable": pa.array([table] * len(rows))}))
            continue
        texts = {name: _as_text(table[name]) for name in ("id", "url")}
        sizes = {ours: table[theirs].cast(pa.int64()) for ours, theirs in declared.items()}
        parts.append(_part(len(rows), texts | sizes))
    return pa.concat_tables(parts) if parts else _part(0, {})


_PART = pa.schema([*(ADDRESSES.field(name) for name in ("id", "url", *_DECLARED)), ("unreadable", pa.string())])


def _part(rows: int, columns: dict[str, pa.Array]) -> pa.Table:
    return pa.table({field.name: columns.get(field.name, pa.nulls(rows, field.type)) for field in _PART}, schema=_PART)


def _as_text(column: pa.ChunkedArray) -> pa.Array:
    """Strings, in which bytes that are no UTF-8 are written as their numbers in hexadecimal."""
    data = column.cast(pa.binary()).combine_chunks()
    try:
        return data.cast(pa.string())
    except pa.ArrowInvalid:
        decoded = map(partial(bytes.decode, errors="backslashreplace"), data.drop_null().to_pylist())
        return pc.replace_with_mask(pa.nulls(len(data), pa.string()), data.is_valid(), pa.array(list(decoded), pa.string()))


def _bad_records(table: pa.Table, excluded: frozenset[str]) -> tuple[pa.Array, pa.Array]:
    """By row, why it is not fetched, and more of it; null where it is."""
    ids = table["id"].to_pylist()
    bad = mark_bad_ids(ids, table["unreadable"].to_pylist())
    status, detail = pa.array(bad["reason"], pa.string()), pa.array(bad["detail"], pa.string())
    if excluded:
        listed = pc.is_in(table["id"], value_set=pa.array(sorted(excluded), pa.string())).combine_chunks()
        status = pc.coalesce(status, pc.if_else(listed, "excluded", pa.scalar(None, pa.string())))
    no_url = pc.or_kleene(pc.is_null(table["url"]), pc.equal(table["url"], "")).combine_chunks()
    return pc.coalesce(status, pc.if_else(no_url, "null_url", pa.scalar(None, pa.string()))), detail


def _first_rows(urls: pa.ChunkedArray, wanted: pa.Array) -> pa.Array:
    """By row, the first of the wanted rows that has its address; its own number where it is not wanted."""
    rows = np.arange(len(urls))
    where = np.flatnonzero(np.asarray(wanted))
    if not len(where):
        return pa.array(rows)
    codes = np.asarray(urls.combine_chunks().take(pa.array(where)).dictionary_encode().indices)
    _, first = np.unique(codes, return_index=True)
    rows[where] = where[first[codes]]
    return pa.array(rows)
