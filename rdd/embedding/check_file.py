"""One file of features, read whole: what it holds, or the first thing in it that is wrong.

It is read some rows at a time, so that memory depends neither on the size of the file nor on that of the set.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rdd import storage
from rdd.embedding.caption_cosine import with_cosines
from rdd.embedding.output import counts_of, quarantined
from rdd.feature_names import TEXTS
from rdd.features.columns import Column
from rdd.features.values import lengths_of, not_finite, values_of
from rdd.hashing import hash_strings
from rdd.schema import FILE_FACTS, REAL, features_schema

_ROWS_AT_A_TIME = 256  # of D3 with four blocks: 13 MB
_BYTES_AT_A_TIME = 2**24
_NEEDED = ("key", "source", "row", "record_id", "generators", "prompts_cut", "content_hashes", "stage", "reason", "detail")


class FlawError(Exception):
    """What is wrong with a file, as the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class FileContent:
    """What a sound file holds, in some 120 bytes a record of D3."""

    keys: np.ndarray
    """``(rows,)`` uint64: hash of each key."""
    record_ids: np.ndarray
    """``(written,)`` uint64: hash of the id of each record that was not rejected."""
    rejected: np.ndarray
    """uint64: hash of each row of the quarantine."""
    counts: dict[str, Any]
    """Of :func:`rdd.embedding.output.counts_of`."""
    images: pa.Table
    """Of each record that was not rejected ``content_hashes``, ``caption_cosines``, its ``reason``, which is null, and of its
    ``generators`` whether they are ``real``."""


def check_file(path: str, columns: Mapping[str, Column], *, d3: bool) -> FileContent:
    """Read every page of every column.

    Args:
        path: the Parquet file.
        columns: by name, the features that it must hold.
        d3: whether each record should have all images of D3.

    Raises:
        FlawError: it is damaged, or a row is not as it must be.
        OSError: the disk or the store is at fault, and not the file.
    """
    try:
        with storage.open_input(path) as stream:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            _check_schema(file.schema_arrow, columns)
            parts = [_content(batch, columns, d3) for batch in _batches(file)]
    except (pa.ArrowException, OSError) as error:
        _read_through(path)
        raise FlawError(f"can not be read ({' '.join(str(error).split())})") from error
    if not parts:
        raise FlawError("holds no record")
    return FileContent(
        keys=np.concatenate([part.keys for part in parts]),
        record_ids=np.concatenate([part.record_ids for part in parts]),
        rejected=np.concatenate([part.rejected for part in parts]),
        counts=added([part.counts for part in parts]),
        images=pa.concat_tables(part.images for part in parts),
    )


def added(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum of some counts, name by name."""
    total: dict[str, Any] = {}
    for one in counts:
        for name, value in one.items():
            total[name] = added([total.get(name, {}), value]) if isinstance(value, dict) else total.get(name, 0) + value
    return total


def hash_of_rows(table: pa.Table) -> np.ndarray:
    """``(rows,)`` uint64: one hash of each row of a small table."""
    return hash_strings(map(repr, table.to_pylist()))


def _batches(file: pq.ParquetFile) -> Iterator[pa.Table]:
    for batch in file.iter_batches(_ROWS_AT_A_TIME, use_threads=False):  # other files are read beside
        yield pa.Table.from_batches([batch])


def _read_through(path: str) -> None:
    """Read the bytes as they are, which fails only where the disk or the store does."""
    with storage.open_input(path) as stream:
        while stream.read(_BYTES_AT_A_TIME):
            pass


def _check_schema(schema: pa.Schema, columns: Mapping[str, Column]) -> None:
    expected = features_schema([])
    types = {name: expected.field(name).type for name in _NEEDED if name != "content_hashes"}
    types |= {column.stored: pa.binary() for column in columns.values()}
    for name, kind in types.items():
        if (place := schema.get_field_index(name)) < 0:
            raise FlawError(f"lacks the column {name}")
        if schema.field(place).type != kind:
            raise FlawError(f"has the column {name} of type {schema.field(place).type} instead of {kind}")


def _content(table: pa.Table, columns: Mapping[str, Column], d3: bool) -> FileContent:
    _check_rows(table, columns)
    written = table.filter(pc.is_null(table["reason"]))
    return FileContent(
        keys=hash_strings(table["key"].to_pylist()),
        record_ids=hash_strings(written["record_id"].to_pylist()),
        rejected=hash_of_rows(quarantined(table)),
        counts=counts_of(table, d3=d3),
        images=_images(written.combine_chunks()),
    )


def _images(written: pa.Table) -> pa.Table:
    """What the manifest counts of images, and nothing else of them."""
    generators = written["generators"].combine_chunks()
    real = pc.if_else(pc.equal(pc.list_flatten(generators), REAL), REAL, "")
    offsets = np.concatenate([[0], np.cumsum(np.asarray(pc.list_value_length(generators)))])
    columns = with_cosines(written).select(["content_hashes", "caption_cosines", "reason"])
    return columns.append_column("generators", pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), real))


def _check_rows(table: pa.Table, columns: Mapping[str, Column]) -> None:
    if sum(table[name].null_count for name in ("key", "source", "row")):
        raise FlawError("holds a row without a place")
    written = table.filter(pc.is_null(table["reason"])).combine_chunks()
    if not written.num_rows:
        return
    keys = written["key"]
    if written["record_id"].null_count or written["generators"].null_count:
        raise FlawError("holds a record without an id or without generators")
    if pc.list_flatten(written["generators"]).null_count:
        raise FlawError("holds an image without a generator")
    images = np.asarray(pc.list_value_length(written["generators"]))
    for name in (*FILE_FACTS, "caption_cosines"):
        if name in written.column_names:
            absent = pa.array(images) if name == "caption_cosines" else -1  # they need prompts
            described = np.asarray(pc.coalesce(pc.list_value_length(written[name]), absent))
            _refuse(described != images, keys, f"{name} of more or fewer images than there are")
    for name, column in columns.items():
        vectors = np.ones_like(images) if name in TEXTS else images
        _check_column(table, written, column, vectors)


def _check_column(table: pa.Table, written: pa.Table, column: Column, vectors: np.ndarray) -> None:
    """The values of a feature: of each record that was not rejected so many vectors, of finite numbers."""
    keys, stored = written["key"], written[column.stored].combine_chunks()
    _refuse(np.asarray(pc.is_null(stored)), keys, f"nothing in {column.stored}")
    if table[column.stored].null_count < table.num_rows - written.num_rows:
        raise FlawError(f"holds {column.stored} of a record that was rejected")
    expected = vectors * column.vector_bytes
    _refuse(
        lengths_of(stored) != expected,
        keys,
        f"another number of bytes than {column.width} numbers a vector need in {column.stored}",
    )
    bad = not_finite(values_of(stored, column.dtype))
    if bad.any():
        record_of = np.repeat(np.arange(len(vectors)), vectors * column.width)
        _refuse(np.bincount(record_of[bad], minlength=len(vectors)) > 0, keys, f"NaN or infinity in {column.stored}")


def _refuse(flawed: np.ndarray, keys: pa.ChunkedArray, what: str) -> None:
    """Say so where a record is flawed.

    Raises:
        FlawError: naming the first such record.
    """
    if flawed.any():
        raise FlawError(f"holds {what} of the record {keys[int(flawed.argmax())].as_py()!r}")
