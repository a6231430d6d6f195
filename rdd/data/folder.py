"""Any labelled images: a folder ``real/`` + ``fake/<generator>/``, or a manifest in CSV or Parquet."""

import logging
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from rdd import storage
from rdd.data.parquet_rows import read_rows, read_schema
from rdd.data.records import make_index, rejection, split_rejected
from rdd.schema import LABEL_GENERATED, LABEL_REAL, RAW, REAL, label_of

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_STRINGS = ("path", "generator", "record_id", "caption")


class FolderSource:
    """Images below ``real/`` and ``fake/<generator>/``; each image is a record of its own, named by its path.

    Args:
        path: the folder, local or on S3.

    Raises:
        ValueError: there is no such folder, no image in it, or an image directly below ``fake/``.
    """

    def __init__(self, path: str) -> None:
        self._root = storage.absolute(path)
        files = [file.path for file in storage.list_files(path)]
        names = [file[len(self._root) + 1 :] for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
        self._names = [name for name in names if name.split("/")[0] in ("real", "fake")]
        if not self._names:
            raise ValueError(f"no image below real/ or fake/<generator>/ in {path}")
        if left_out := len(files) - len(self._names):
            logger.info("%d files of %s are left out: outside real/ and fake/, or no images by their ending", left_out, path)
        if any(name.startswith(f"fake/{REAL}/") for name in self._names):
            raise ValueError(f"{path}/fake/{REAL} must have another name, since {REAL!r} names what is not generated")
        loose = [name for name in self._names if name.startswith("fake/") and name.count("/") < 2]
        if loose:
            raise ValueError(f"{path}/{loose[0]} must lie in fake/<generator>/, so that its generator is known")

    has_text = False

    def index(self) -> pa.Table:
        """One row an image, sorted by path."""
        generators = [REAL if name.startswith("real/") else name.split("/")[1] for name in self._names]
        return make_index(
            {
                "key": self._names,
                "source": [self._root] * len(self._names),
                "row": list(range(len(self._names))),
                "rows": [[row] for row in range(len(self._names))],
                "record_id": self._names,
                "paths": [[posixpath.join(self._root, name)] for name in self._names],
                "generators": [[generator] for generator in generators],
            }
        )

    def read(self, index: pa.Table) -> Iterator[pa.Table]:
        """Bytes of the images of some records."""
        return _read_paths(index)


class ManifestSource:
    """Images named or held by a table.

    Columns: ``path`` (relative to the manifest, absolute, or s3://) or ``bytes`` (Parquet only), ``label`` (0 real, 1
    generated), ``generator``; optional ``record_id`` (images of one record share it and its caption; without it each image is
    a record) and ``caption``. Other columns are ignored.

    Args:
        path: the CSV or Parquet file.

    Raises:
        ValueError: there is no such file, a column is missing or of another type, or there is no row.
    """

    def __init__(self, path: str) -> None:
        self._path = storage.absolute(path)
        self._table = _manifest(self._path)
        self._holds_bytes = "path" not in self._table.column_names
        self.has_text = "caption" in self._table.column_names
        if not self._table.num_rows:
            raise ValueError(f"{path} has no row")

    def index(self) -> pa.Table:
        """One row a record, in the order of first rows."""
        records: dict[str, list[dict[str, Any]]] = {}
        for row, entry in enumerate(self._table.to_pylist()):
            record_id = entry.get("record_id", entry.get("path") or f"row-{row}")
            group = f"id:{record_id}" if record_id is not None else f"row:{row}"
            records.setdefault(group, []).append(entry | {"row": row, "record_id": record_id})
        name = posixpath.basename(self._path)
        groups = list(records.values())
        rejections = [_flaw(images) for images in groups]
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
                **{column: [flaw.get(column) for flaw in rejections] for column in ("stage", "reason", "detail")},
            }
        )

    def read(self, index: pa.Table) -> Iterator[pa.Table]:
        """Bytes of the images of some records."""
        return _read_bytes(index) if self._holds_bytes else _read_paths(index)

    def _place(self, path: str | None) -> str | None:
        if path is None or "://" in path:
            return path
        return storage.join(posixpath.dirname(self._path), path)  # an absolute path stays as it is


def _manifest(path: str) -> pa.Table:
    """The manifest without its images: ``path`` if it has one, ``label``, ``generator``, and the optional columns."""
    if not storage.exists(path):
        raise ValueError(f"no manifest at {path}")
    if path.endswith(".csv"):
        fs, inner = storage.filesystem(path)
        strings = {name: pa.string() for name in _STRINGS}
        options = pacsv.ConvertOptions(column_types=strings, strings_can_be_null=True, null_values=[""])
        try:
            with fs.open_input_stream(inner) as stream:
                table = pacsv.read_csv(stream, convert_options=options)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is not a readable CSV: {error}") from error
        names = table.column_names
    elif path.endswith(".parquet"):
        schema = read_schema(path)
        names = schema.names
        if "bytes" in names and "path" not in names and not pa.types.is_binary(schema.field("bytes").type):
            raise ValueError(f"{path} has the column bytes of type {schema.field('bytes').type} instead of binary")
        fs, inner = storage.filesystem(path)
        with fs.open_input_file(inner) as stream:
            table = pq.read_table(stream, columns=[name for name in (*_STRINGS, "label") if name in names])
    else:
        raise ValueError(f"a manifest must end in .csv or .parquet, got {path}")
    missing = [name for name in ("label", "generator") if name not in names]
    missing += [] if "path" in names or ("bytes" in names and path.endswith(".parquet")) else ["path (or bytes, in Parquet)"]
    if missing:
        raise ValueError(f"{path} lacks the column(s) {', '.join(missing)}; it has {', '.join(names)}")
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has a column twice: {', '.join(names)}")
    table = table.select([name for name in (*_STRINGS, "label") if name in names])
    for name in table.column_names:
        given, wanted = table.schema.field(name).type, "integer" if name == "label" else "string"
        right = pa.types.is_integer(given) if name == "label" else pa.types.is_string(given) or pa.types.is_large_string(given)
        if not right and not pa.types.is_null(given):
            raise ValueError(f"{path} has the column {name} of type {given} instead of {wanted}")
    return table


def _flaw(images: list[dict[str, Any]]) -> Mapping[str, str | None]:
    """Why a record can not be used, or nothing."""
    for image in images:
        if image["record_id"] is None:
            return rejection("index", "null_id", None)
        if image["generator"] is None:
            return rejection("index", "null_generator", f"row {image['row']}")
        if image["label"] not in (LABEL_REAL, LABEL_GENERATED):
            return rejection("index", "bad_label", f"row {image['row']}: label must be 0 or 1, got {image['label']}")
        if image["label"] != label_of(image["generator"]):
            return rejection(
                "index", "bad_label", f"row {image['row']}: label {image['label']} with generator {image['generator']!r}"
            )
        if "path" in image and image["path"] is None:
            return rejection("index", "null_path", f"row {image['row']}")
    paths = [image["path"] for image in images if "path" in image]
    if len(set(paths)) < len(paths):
        return rejection("index", "duplicate_image", "a path stands twice in the record")
    if len({image.get("caption") for image in images}) > 1:
        return rejection("index", "conflicting_captions", "the images of the record have different captions")
    return {}


def _read_paths(index: pa.Table) -> Iterator[pa.Table]:
    rejected, wanted = split_rejected(index)
    yield from rejected
    for place in wanted:
        try:
            images = {"images": [storage.read_bytes(path) for path in place["paths"]]}
        except Exception as error:  # a file system raises its own types, S3 several
            yield _raw(place, rejection("read", "unreadable_file", str(error)))
        else:
            yield _raw(place, images)


def _read_bytes(index: pa.Table) -> Iterator[pa.Table]:
    rejected, wanted = split_rejected(index)
    yield from rejected
    if not wanted:
        return
    data: dict[int, bytes | None] = {}
    rows_wanted = sorted(row for place in wanted for row in place["rows"])
    for rows, table in read_rows(wanted[0]["source"], rows_wanted, ["bytes"]):
        data |= zip(rows.tolist(), table["bytes"].to_pylist(), strict=True)
    for place in wanted:
        images = [data[row] for row in place["rows"]]
        missing = any(image is None for image in images)
        yield _raw(place, rejection("read", "null_bytes", None) if missing else {"images": images})


def _raw(place: Mapping[str, Any], found: Mapping[str, Any]) -> pa.Table:
    """One record as a row of ``schema.RAW``; its one caption serves both text modes."""
    texts = {"text_original": place["caption"], "text_positive": place["caption"]}
    row = {**place, **texts, **found}
    return pa.Table.from_pylist([{name: row.get(name) for name in RAW.names}], schema=RAW)
