"""Chosen rows of a Parquet file, in bounded memory."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdd import storage

BATCH_ROWS = 16
"""Rows decoded at a time: about 18 MB of D3."""


def check_columns(path: str, schema: pa.Schema, expected: pa.Schema) -> None:
    """Refuse a file whose columns are missing or of another type.

    Raises:
        ValueError: naming the file and each bad column.
    """
    present = {field.name: field.type for field in schema}
    missing = [field.name for field in expected if field.name not in present]
    if missing:
        raise ValueError(f"{path} lacks the column(s) {', '.join(missing)}; it has {', '.join(present)}")
    wrong = [
        f"{field.name} ({present[field.name]} instead of {field.type})"
        for field in expected
        if not _same_type(present[field.name], field.type)
    ]
    if wrong:
        raise ValueError(f"{path} has column(s) of another type: {', '.join(wrong)}")


def read_column(path: str, name: str) -> pa.ChunkedArray:
    """One column of a file, nothing else read."""
    fs, inner = storage.filesystem(path)
    with fs.open_input_file(inner) as file:
        return pq.ParquetFile(file).read(columns=[name]).column(name)


def read_schema(path: str) -> pa.Schema:
    """Schema of a file.

    Raises:
        ValueError: the file is no Parquet.
    """
    fs, inner = storage.filesystem(path)
    try:
        with fs.open_input_file(inner) as file:
            return pq.read_schema(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from error


def read_rows(path: str, rows: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Read some rows of a file, a few at a time and only from the row groups that hold them.

    Args:
        path: the Parquet file.
        rows: ascending row numbers in the file.
        columns: columns to read.

    Yields:
        Row numbers ``(n,)`` and a table of these n rows, n at most ``BATCH_ROWS``.
    """
    wanted = np.asarray(rows, dtype=np.int64)
    fs, inner = storage.filesystem(path)
    with fs.open_input_file(inner) as stream:
        file = pq.ParquetFile(stream)
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        groups = np.unique(np.searchsorted(starts, wanted, side="right") - 1)
        for group in groups:
            first = starts[group]
            for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[int(group)], columns=list(columns)):
                here = wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, first + batch.num_rows)]
                if len(here):
                    yield here, pa.Table.from_batches([batch]).take(here - first)
                first += batch.num_rows


def _same_type(kind: pa.DataType, expected: pa.DataType) -> bool:
    """Equal up to 64-bit offsets, which some writers use for strings and bytes."""
    if pa.types.is_struct(expected):
        names = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
        return all(field.name in names and _same_type(names[field.name], field.type) for field in expected)
    if pa.types.is_string(expected):
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if pa.types.is_binary(expected):
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return kind.equals(expected)
