"""Chosen rows of a Parquet file, in bounded memory."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdd import storage

BATCH_ROWS = 16
"""Rows decoded at a time: about 18 MB of D3."""

UNREADABLE = "unreadable"
"""Reason for rejecting a row whose page of Parquet is corrupt."""

_BYTES_AT_A_TIME = 2**24


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


def read_schema(path: str) -> pa.Schema:
    """Schema of a file.

    Raises:
        ValueError: the file is no Parquet.
    """
    with open_parquet(path) as (file, _):
        return file.schema_arrow


def read_rows(
    path: str, rows: Sequence[int], columns: Sequence[str], *, at_a_time: int = BATCH_ROWS
) -> Iterator[tuple[np.ndarray, pa.Table | str]]:
    """Read some rows of a file, a few at a time and only from the row groups that hold them.

    Args:
        path: the Parquet file.
        rows: ascending row numbers in the file.
        columns: columns to read.
        at_a_time: rows that are decoded together.

    Yields:
        Row numbers ``(n,)`` and a table of these n rows, n at most ``at_a_time``; or, where a page of a column is corrupt, the
        numbers of the rows from there to the end of the row group, and why they can not be read.
    """
    with open_parquet(path) as (file, stream):
        yield from rows_of(file, stream, rows, columns, at_a_time=at_a_time)


def rows_of(
    file: pq.ParquetFile, stream: pa.NativeFile, rows: Sequence[int], columns: Sequence[str], *, at_a_time: int = BATCH_ROWS
) -> Iterator[tuple[np.ndarray, pa.Table | str]]:
    """As :func:`read_rows`, of a file that :func:`open_parquet` has opened."""
    wanted = np.asarray(rows, dtype=np.int64)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    groups = np.unique(np.searchsorted(starts, wanted, side="right") - 1)
    for group in groups:
        for first, batch in read_group(file, stream, int(group), columns, at_a_time=at_a_time):
            begin = starts[group] + first
            end = starts[group + 1] if isinstance(batch, str) else begin + batch.num_rows
            here = wanted[np.searchsorted(wanted, begin) : np.searchsorted(wanted, end)]
            if len(here):
                yield here, batch if isinstance(batch, str) else pa.Table.from_batches([batch]).take(here - begin)


def undecoded(table: pa.Table) -> pa.Table:
    """A table with its columns of strings as bytes, since one text that is not UTF-8 would fail the whole batch."""
    for number, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            table = table.set_column(number, field.name, table.column(number).cast(pa.binary()))
    return table


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[tuple[pq.ParquetFile, pa.NativeFile]]:
    """A Parquet file and its bytes; checksums of pages are verified where the writer has left any.

    Raises:
        ValueError: the file is no Parquet, or cut, or its footer is damaged; without that nobody knows what rows it had.
        RuntimeError: it is not there any more.
        OSError: the disk or the store is at fault.
    """
    fs, inner = storage.filesystem(path)
    try:
        stream = fs.open_input_file(inner)
    except FileNotFoundError as error:
        raise RuntimeError(
            f"{path} was there when the job began and is gone; bring it back and start the same command again"
        ) from error
    with stream:
        try:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # which what Arrow finds in a footer has not
                raise
            why = " ".join(str(error).split())
            raise ValueError(f"{path} is not a readable Parquet file ({why}); bring it whole or take it away") from error
        yield file, stream


def read_group(
    file: pq.ParquetFile, stream: pa.NativeFile, group: int, columns: Sequence[str], *, at_a_time: int = BATCH_ROWS
) -> Iterator[tuple[int, pa.RecordBatch | str]]:
    """Read a row group, a few rows at a time.

    Args:
        file: as :func:`open_parquet` gives it.
        stream: its bytes.
        group: which row group.
        columns: columns to read.
        at_a_time: rows that are decoded together.

    Yields:
        The first row's place in the group, and a batch; last, where the rest is corrupt, its first row and why.

    Raises:
        OSError: the disk or the store is at fault, and not the data.
    """
    done, reason = 0, ""
    for _ in range(2):  # a store may fail once
        first = 0
        try:
            for batch in file.iter_batches(at_a_time, row_groups=[group], columns=list(columns)):
                if first >= done:
                    yield first, batch
                    done = first + batch.num_rows
                first += batch.num_rows
            return
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
    _read_bytes(file.metadata.row_group(group), stream)
    yield done, reason


def _read_bytes(group: pq.RowGroupMetaData, stream: pa.NativeFile) -> None:
    """Read a row group's bytes as they are, which fails only where the disk or the store does."""
    for number in range(group.num_columns):
        chunk = group.column(number)
        offsets = (chunk.dictionary_page_offset, chunk.data_page_offset)
        stream.seek(min(offset for offset in offsets if offset is not None))
        left = chunk.total_compressed_size
        while left > 0 and (data := stream.read(min(left, _BYTES_AT_A_TIME))):
            left -= len(data)


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
