"""A manifest: labelled images that a CSV or Parquet table names or holds."""

import itertools
import posixpath
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from rdd import storage
from rdd.data.image_files import FileReader, raw_record
from rdd.data.index import images_of_files, make_index
from rdd.data.parquet_rows import UNREADABLE, open_parquet, read_rows, read_schema
from rdd.data.records import IndexedRecord, Reader, from_table, reject, split_rejected, to_table
from rdd.schema import LABEL_GENERATED, LABEL_REAL, RAW, label_of

_STRINGS = ("path", "generator", "record_id", "caption")


class ManifestSource:
    """Images named or held by a table.

    Columns: ``path`` (relative to the manifest, absolute, or s3://) or ``bytes`` (Parquet only), ``label`` (0 real, 1
    generated), ``generator``; optional ``record_id`` (images of one record share it and its caption; without it each image is
    a record) and ``caption``. Other columns are ignored.

    Args:
        path: the CSV or Parquet file.
        root: folder that every image file must lie in, where links lead to as well; ``any`` for everywhere, by default that of
            the manifest.

    Raises:
        ValueError: there is no such file, a column is missing or of another type, or there is no row.
    """

    def __init__(self, path: str, root: str = "") -> None:
        self._path = storage.absolute(path)
        self._table = _manifest(self._path)
        self._holds_bytes = "path" not in self._table.column_names
        self.reader: Reader = read_column if self._holds_bytes else FileReader(root or posixpath.dirname(self._path))
        self.has_text = "caption" in self._table.column_names
        self.images_per_row = 1
        if not self._table.num_rows:
            raise ValueError(f"{path} has no row")

    def images_of(self, index: pa.Table) -> np.ndarray:
        """``(N,)`` images of each record."""
        return images_of_files(index)

    def index(self) -> pa.Table:
        """One row a record, in the order of first rows."""
        records: dict[str, list[dict[str, Any]]] = {}
        for entry in _entries(self._table):
            record_id = entry.get("record_id", entry.get("path") or f"row-{entry['row']}")
            group = f"id:{record_id}" if record_id is not None else f"row:{entry['row']}"
            records.setdefault(group, []).append(entry | {"record_id": record_id})
        name = posixpath.basename(self._path)
        groups = list(records.values())
        conflicting = _conflicting_paths(groups)
        flaws = [_flaw(images, conflicting) for images in groups]
        return make_index(
            {
                "key": [f"{name}#{images[0]['row']}" for images in groups],
                "source": [self._path] * len(groups),
                "row": [images[0]["row"] for images in groups],
                "rows": [[image["row"] for image in images] for images in groups],
                "record_id": [images[0]["record_id"] for images in groups],
                "paths": [[self._place(image.get("path")) for image in images] for images in groups],
                "generators": [[image["generator"] for image in images] for images in groups],
                "caption": [images[0].get("caption") or None for images in groups],
                "stage": ["index" if reason else None for reason, _ in flaws],
                "reason": [reason for reason, _ in flaws],
                "detail": [detail for _, detail in flaws],
            }
        )

    def _place(self, path: str | None) -> str | None:
        if path is None or "://" in path:
            return path
        return storage.join(posixpath.dirname(self._path), path)  # an absolute path stays as it is


def _manifest(path: str) -> pa.Table:
    """The manifest without its images: ``path`` if it has one, ``label``, ``generator``, and the optional columns."""
    if not storage.exists(path):
        raise ValueError(f"no manifest at {path}")
    if not path.endswith((".csv", ".parquet")):
        raise ValueError(f"a manifest must end in .csv or .parquet, got {path}")
    try:
        table = _read_csv(path) if path.endswith(".csv") else _read_parquet(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} can not be read: {' '.join(str(error).split())}") from error
    for name in table.column_names:
        kind, wanted = table.schema.field(name).type, "integer" if name == "label" else "string"
        right = pa.types.is_integer(kind) if name == "label" else pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not right and not pa.types.is_null(kind):
            raise ValueError(f"{path} has the column {name} of type {kind} instead of {wanted}")
    return table


def _read_csv(path: str) -> pa.Table:
    fs, inner = storage.filesystem(path)
    strings = {name: pa.string() for name in _STRINGS}
    options = pacsv.ConvertOptions(column_types=strings, strings_can_be_null=True, null_values=[""])
    with fs.open_input_stream(inner) as stream:
        table = pacsv.read_csv(stream, convert_options=options)
    return table.select(_wanted(path, table.column_names))


def _read_parquet(path: str) -> pa.Table:
    schema = read_schema(path)
    wanted = _wanted(path, schema.names)
    if "path" not in schema.names and not pa.types.is_binary(schema.field("bytes").type):
        raise ValueError(f"{path} has the column bytes of type {schema.field('bytes').type} instead of binary")
    with open_parquet(path) as (file, _):
        return file.read(columns=wanted)


def _wanted(path: str, names: list[str]) -> list[str]:
    """The columns to read.

    Raises:
        ValueError: one is missing, or stands twice.
    """
    shown = ", ".join(map(repr, names))
    missing = [name for name in ("label", "generator") if name not in names]
    missing += [] if "path" in names or ("bytes" in names and path.endswith(".parquet")) else ["path (or bytes, in Parquet)"]
    if missing:
        raise ValueError(f"{path} lacks the column(s) {', '.join(missing)}; it has {shown}")
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has a column twice: {shown}")
    return [name for name in (*_STRINGS, "label") if name in names]


def _entries(table: pa.Table) -> list[dict[str, Any]]:
    """The rows; a text that is no UTF-8 is written out and named under ``not_utf8``."""
    columns: dict[str, list[Any]] = {}
    bad: dict[int, str] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            values = column.cast(pa.large_binary()).to_pylist()
            columns[name] = [None if value is None else value.decode(errors="backslashreplace") for value in values]
            for row, value in enumerate(values):
                if value is not None and columns[name][row].encode() != value:
                    bad.setdefault(row, f"{name} is no UTF-8: {columns[name][row]}")
        else:
            columns[name] = column.to_pylist()
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [entry | {"row": row, "not_utf8": bad.get(row)} for row, entry in enumerate(rows)]


def _conflicting_paths(groups: list[list[dict[str, Any]]]) -> set[str]:
    """Paths that stand in the manifest as a real and as a generated image; of one spelling and another, they are one path."""
    labels: dict[str, set[Any]] = {}
    for image in itertools.chain.from_iterable(groups):
        if image.get("path") is not None:
            labels.setdefault(posixpath.normpath(image["path"]), set()).add(image["label"])
    return {path for path, given in labels.items() if {LABEL_REAL, LABEL_GENERATED} <= given}


def _flaw(images: list[dict[str, Any]], conflicting: set[str]) -> tuple[str | None, str | None]:
    """Why a record can not be used, in a word and in detail, or nothing."""
    for image in images:
        if image["not_utf8"]:
            return "not_utf8", f"row {image['row']}: {image['not_utf8']}"
        if not image["record_id"]:
            return "null_id", None
        if not image["generator"]:
            return "null_generator", f"row {image['row']}"
        if image["label"] not in (LABEL_REAL, LABEL_GENERATED):
            return "bad_label", f"row {image['row']}: label must be 0 or 1, got {image['label']}"
        if image["label"] != label_of(image["generator"]):
            return "bad_label", f"row {image['row']}: label {image['label']} with generator {image['generator']!r}"
        if "path" in image and not image["path"]:
            return "null_path", f"row {image['row']}"
    paths = [posixpath.normpath(image["path"]) for image in images if "path" in image]
    if both := conflicting.intersection(paths):
        return "conflicting_label", f"{min(both)} stands in the manifest with label 0 and with label 1"
    if len(set(paths)) < len(paths):
        return "duplicate_image", "a path stands twice in the record"
    if len({image.get("caption") for image in images}) > 1:
        return "conflicting_captions", "the images of the record have different captions"
    return None, None


def read_column(index: pa.Table) -> Iterator[pa.Table]:
    """Images that a Parquet table holds in its column ``bytes``: a :data:`rdd.data.records.Reader`."""
    rejected, wanted = split_rejected(from_table(index, IndexedRecord))
    if rejected:
        yield to_table(rejected, RAW)
    if not wanted:
        return
    data: dict[int, bytes | None] = {}
    unreadable: dict[int, str] = {}
    rows_wanted = sorted(row for record in wanted for row in record.rows)
    for rows, table in read_rows(wanted[0].place.source, rows_wanted, ["bytes"]):
        if isinstance(table, str):
            unreadable |= dict.fromkeys(rows.tolist(), table)
        else:
            data |= zip(rows.tolist(), table["bytes"].to_pylist(), strict=True)
    for record in wanted:
        if bad := [unreadable[row] for row in record.rows if row in unreadable]:
            yield to_table([reject(record.place, "read", UNREADABLE, bad[0])], RAW)
            continue
        images = [image for row in record.rows if (image := data[row]) is not None]
        missing = len(images) < len(record.rows)
        yield to_table([reject(record.place, "read", "null_bytes") if missing else raw_record(record, images)], RAW)
