"""OpenFake's own Parquet: one image a row, real or generated, with its prompt and what made it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rdd.data.file_sets import parquet_files
from rdd.data.index import images_of_files, make_index
from rdd.data.parquet_rows import UNREADABLE, check_columns, open_parquet, read_rows, undecoded
from rdd.data.records import IndexedRecord, Place, RawRecord, RejectedRecord, from_table, reject, split_rejected, to_table
from rdd.progress import logged
from rdd.schema import RAW, REAL

COLUMNS = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("prompt", pa.string()),
        ("label", pa.string()),
        ("model", pa.string()),
    ]
)
"""The columns that are read, which every revision of the set has had; later ones add ``type`` and ``release_date``."""

_LISTING_THREADS = 16  # a footer a file: latency of S3, not bandwidth


class OpenFakeSource:
    """Images of OpenFake (ComplexDataLab/OpenFake on the Hugging Face hub, arXiv 2509.09495).

    The set has no ids, so an image is a record of its own, named by file and row. Its parts are files, such as
    ``core/train-*``, ``core/test-*`` and ``reddit/test-*``: name one part by a wildcard.

    Args:
        path: Parquet files with OpenFake's columns, local or on S3, as :func:`rdd.data.file_sets.parquet_files` takes them.

    Raises:
        ValueError: the path names no Parquet file, or columns are missing or of another type.
    """

    has_text = True
    images_per_row = 1

    def __init__(self, path: str) -> None:
        self._path, self._named = path, parquet_files(path)
        self.reader = OpenFakeReader()

    def index(self) -> pa.Table:
        """One row an image, from the files' footers alone."""
        files = [named.file.path for named in self._named]
        with ThreadPoolExecutor(_LISTING_THREADS) as pool:
            rows = list(logged(pool.map(_checked_rows, files), total=len(files), what="files of records"))
        if not sum(rows):
            raise ValueError(f"the {len(files)} Parquet files of {self._path} hold no image")
        places = [(named, row) for named, count in zip(self._named, rows, strict=True) for row in range(count)]
        names = [f"{named.name}#{row}" for named, row in places]
        return make_index(
            {
                "key": names,
                "source": [named.file.path for named, _ in places],
                "row": [row for _, row in places],
                "rows": [[row] for _, row in places],
                "record_id": names,
            }
        )

    def images_of(self, index: pa.Table) -> np.ndarray:
        """``(N,)`` images of each record: one."""
        return images_of_files(index)


@dataclass(frozen=True)
class OpenFakeReader:
    """Reads the images of some rows, with their prompts and what made them."""

    def __call__(self, index: pa.Table) -> Iterator[pa.Table]:
        """Images of some rows of one file; rows already rejected pass through unread."""
        rejected, wanted = split_rejected(from_table(index, IndexedRecord))
        if rejected:
            yield to_table(rejected, RAW)
        if not wanted:
            return
        places = {record.place.row: record.place for record in wanted}
        for rows, table in read_rows(wanted[0].place.source, sorted(places), COLUMNS.names):
            if isinstance(table, str):
                yield to_table([reject(places[row], "read", UNREADABLE, table) for row in rows.tolist()], RAW)
                continue
            read = zip(rows.tolist(), undecoded(table).to_pylist(), strict=True)
            yield to_table([_record(places[row], columns) for row, columns in read], RAW)


def _checked_rows(path: str) -> int:
    with open_parquet(path) as (file, _):
        check_columns(path, file.schema_arrow, COLUMNS)
        return file.metadata.num_rows


def _record(place: Place, columns: dict[str, Any]) -> RawRecord | RejectedRecord:
    """An image; what made a real one, where the set says more than that it is real, is left out."""
    try:
        columns = {name: value.decode() if isinstance(value, bytes) else value for name, value in columns.items()}
    except UnicodeDecodeError as error:
        return reject(place, "read", "not_utf8", str(error))
    label, model = columns["label"], columns["model"]
    if label not in ("real", "fake"):
        return reject(place, "read", "bad_label", f"label must be real or fake, got {label!r}")
    if label == "fake" and model in (None, "", REAL):
        return reject(place, "read", "bad_generator", f"model is {model!r}, which names no generator")
    if columns["image"] is None or columns["image"]["bytes"] is None:
        return reject(place, "read", "null_bytes")
    generator = REAL if label == "real" else model
    return RawRecord(place, [generator], [columns["image"]["bytes"]], columns["prompt"], columns["prompt"])
