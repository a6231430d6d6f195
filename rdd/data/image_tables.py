"""Tables of images without labels: what a CSV or Parquet file says of where each image is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from rdd import storage
from rdd.data.parquet_rows import open_parquet, read_schema

SUFFIXES = (".csv", ".parquet")

PLACES = ("path", "bytes", "url")
"""Columns that say where an image is; of several the first counts."""


@dataclass(frozen=True)
class ImageTable:
    """Where the images of a table are."""

    column: str
    """``path``, ``bytes`` or ``url``."""
    places: list[str | None] | None
    """Of each row its path or address; None where the table holds the images."""
    captions: list[str | None] | None
    """Of each row; None where there is no such column."""
    rows: int
    not_utf8: frozenset[int]
    """Rows whose path, address or caption is no UTF-8, and here written out."""


def read_image_table(path: str) -> ImageTable:
    """Read all of a table but its images.

    Args:
        path: a file that ends in .csv or .parquet, local or on S3.

    Raises:
        ValueError: it can not be read, or no column says where the images are, or one is of another type.
    """
    if not storage.exists(path):
        raise ValueError(f"no table at {path}")
    try:
        table, column = _of_csv(path) if path.lower().endswith(".csv") else _of_parquet(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} can not be read: {' '.join(str(error).split())}") from error
    bad: set[int] = set()
    places = None if column == "bytes" else _texts(path, table, column, bad)
    captions = _texts(path, table, "caption", bad) if "caption" in table.column_names else None
    return ImageTable(column, places, captions, table.num_rows, frozenset(bad))


def _of_csv(path: str) -> tuple[pa.Table, str]:
    texts = {name: pa.string() for name in ("path", "url", "caption")}
    options = pacsv.ConvertOptions(column_types=texts, strings_can_be_null=True, null_values=[""])
    fs, inner = storage.filesystem(path)
    with fs.open_input_stream(inner) as stream:
        table = pacsv.read_csv(stream, convert_options=options)
    column = _column(path, table.column_names, ("path", "url"))
    return table.select(_wanted(table.column_names, column)), column


def _of_parquet(path: str) -> tuple[pa.Table, str]:
    schema = read_schema(path)
    column = _column(path, schema.names, PLACES)
    if column == "bytes" and not _is_binary(schema.field("bytes").type):
        raise ValueError(f"{path} has the column bytes of type {schema.field('bytes').type} instead of binary")
    wanted = [name for name in _wanted(schema.names, column) if name != "bytes"]
    with open_parquet(path) as (file, _):
        return file.read(columns=wanted), column


def _column(path: str, names: list[str], allowed: tuple[str, ...]) -> str:
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has a column twice: {', '.join(names)}")
    column = next((name for name in allowed if name in names), None)
    if column is None:
        hint = "; bytes are read from Parquet alone" if "bytes" in names else ""
        raise ValueError(f"{path} must have a column {' or '.join(allowed)}, it has {', '.join(names) or 'none'}{hint}")
    return column


def _wanted(names: list[str], column: str) -> list[str]:
    return [name for name in (column, "caption") if name in names]


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _texts(path: str, table: pa.Table, name: str, bad: set[int]) -> list[str | None]:
    """A column of texts; one that is no UTF-8 is written out, and its row noted in ``bad``."""
    kind = table.schema.field(name).type
    if pa.types.is_null(kind):
        return [None] * table.num_rows
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"{path} has the column {name} of type {kind} instead of string")
    return list(_decoded(table[name].cast(pa.large_binary()).to_pylist(), bad))


def _decoded(values: list[Any], bad: set[int]) -> Iterator[str | None]:
    for row, value in enumerate(values):
        if value is None:
            yield None
            continue
        try:
            yield value.decode()
        except UnicodeDecodeError:
            bad.add(row)
            yield value.decode(errors="backslashreplace")
