"""ELSA_D3's own Parquet: four generated images a row, the real one by its id."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rdd.data.file_sets import parquet_files
from rdd.data.index import make_index, mark_bad_ids
from rdd.data.parquet_rows import UNREADABLE, check_columns, open_parquet, read_rows, rows_of, undecoded
from rdd.data.real_images import RealImages
from rdd.data.records import IndexedRecord, Place, RawRecord, RejectedRecord, from_table, reject, split_rejected, to_table
from rdd.progress import logged
from rdd.schema import D3, NUM_GENERATED, RAW, REAL, STATUS_OK

_GENERATED = [(f"model_gen{i}", f"image_gen{i}") for i in range(NUM_GENERATED)]
_COLUMNS = ["original_prompt", "positive_prompt", *(name for pair in _GENERATED for name in pair)]
_READ = pa.schema([D3.field(name) for name in ("id", *_COLUMNS)])

_IDS_AT_A_TIME = 2**14
_LISTING_THREADS = 16  # a footer and an id column a file: latency of S3, not bandwidth


class D3Source:
    """Records of ELSA_D3 with the real image of each.

    Args:
        path: Parquet files with D3's schema, local or on S3, as :func:`rdd.data.file_sets.parquet_files` takes them.
        real_images: Parquet files of real images (``schema.REAL_IMAGES``), likewise.
        require_all_generated: reject a record that lacks one of its generated images; else it is kept with those that it has.

    Raises:
        ValueError: a path names no Parquet file, or columns are missing or of another type.
    """

    has_text = True
    images_per_row = 1 + NUM_GENERATED

    def __init__(self, path: str, real_images: str, *, require_all_generated: bool = False) -> None:
        if not real_images:
            raise ValueError("records.real_images must name the table of real images, since D3 has only their addresses")
        self._path, self._named = path, parquet_files(path)
        self.reader = D3Reader(RealImages(real_images), require_all_generated)

    def index(self) -> pa.Table:
        """One row a row of D3, from a pass over the id column alone."""
        files = [named.file.path for named in self._named]
        with ThreadPoolExecutor(_LISTING_THREADS) as pool:
            read = logged(pool.map(_checked_ids, files), total=len(files), what="files of records")
            ids_of_files, unreadable_of_files = zip(*read, strict=True)
        record_ids = [record_id for ids in ids_of_files for record_id in ids]
        places = [(file, row) for file, ids in zip(files, ids_of_files, strict=True) for row in range(len(ids))]
        unreadable = {
            (file, row): why for file, rows in zip(files, unreadable_of_files, strict=True) for row, why in rows.items()
        }
        if not places:
            raise ValueError(f"the {len(files)} Parquet files of {self._path} hold no record")
        name_of = {named.file.path: named.name for named in self._named}
        return make_index(
            {
                "key": [f"{name_of[file]}#{row}" for file, row in places],
                "source": [file for file, _ in places],
                "row": [row for _, row in places],
                "rows": [[row] for _, row in places],
                "record_id": record_ids,
                **mark_bad_ids(record_ids, [unreadable.get(place) for place in places]),
            }
        )

    def images_of(self, index: pa.Table) -> np.ndarray:
        """``(N,)`` images of each record, as far as that is known before they are read: none without a real one, else all."""
        real = self.reader.real_images.have_image([record_id or "" for record_id in index["record_id"].to_pylist()])
        return np.where(real & np.asarray(pc.is_null(index["reason"])), self.images_per_row, 0)


@dataclass(frozen=True)
class D3Reader:
    """Reads prompts and images of D3's rows, and the real image of each."""

    real_images: RealImages
    require_all_generated: bool

    def __call__(self, index: pa.Table) -> Iterator[pa.Table]:
        """Prompts and images of some rows of one file; rows already rejected pass through unread."""
        rejected, wanted = split_rejected(from_table(index, IndexedRecord))
        if rejected:
            yield to_table(rejected, RAW)
        if not wanted:
            return
        places = {record.place.row: record.place for record in wanted}
        real = self.real_images.lookup([place.record_id or "" for place in places.values()])
        for rows, table in read_rows(wanted[0].place.source, sorted(places), _COLUMNS):
            if isinstance(table, str):
                yield to_table([reject(places[row], "read", UNREADABLE, table) for row in rows.tolist()], RAW)
                continue
            yield to_table(
                [
                    _record(places[row], columns, real.get(places[row].record_id or ""), self.require_all_generated)
                    for row, columns in zip(rows.tolist(), undecoded(table).to_pylist(), strict=True)
                ],
                RAW,
            )


def _checked_ids(path: str) -> tuple[list[str | None], dict[int, str]]:
    """The id of each row of a file, and by row why an id can not be read."""
    with open_parquet(path) as (file, stream):
        check_columns(path, file.schema_arrow, _READ)
        number = file.metadata.num_rows
        ids: list[str | None] = [None] * number
        unreadable: dict[int, str] = {}
        for rows, table in rows_of(file, stream, range(number), ["id"], at_a_time=_IDS_AT_A_TIME):
            if isinstance(table, str):
                unreadable |= dict.fromkeys(rows.tolist(), table)
                continue
            for row, name in zip(rows.tolist(), table["id"].cast(pa.binary()).to_pylist(), strict=True):
                ids[row] = None if name is None else name.decode(errors="backslashreplace")
    return ids, unreadable


def _record(
    place: Place, columns: dict[str, Any], real: tuple[str, bytes | None] | None, require_all: bool
) -> RawRecord | RejectedRecord:
    """A row of D3 and its real image, rejected where that is missing, or all generated images, or one if all are required."""
    if real is None:
        return reject(place, "read", "real_image_missing", "the table of real images has no such id")
    status, data = real
    if status != STATUS_OK or data is None:
        return reject(place, "read", "real_image_failed", "its bytes are null" if status == STATUS_OK else status)
    try:
        columns = {name: value.decode() if isinstance(value, bytes) else value for name, value in columns.items()}
    except UnicodeDecodeError as error:
        return reject(place, "read", "not_utf8", str(error))
    generators, images, missing = [REAL], [data], []
    for model, image in _GENERATED:
        if columns[model] is None or columns[image] is None or columns[image]["bytes"] is None:
            missing.append(f"{model} or {image} is null")
            continue
        if columns[model] in ("", REAL):
            return reject(place, "read", "bad_generator", f"{model} is {columns[model]!r}, which names no generator")
        generators.append(columns[model])
        images.append(columns[image]["bytes"])
    if missing and (require_all or len(images) == 1):
        return reject(place, "read", "generated_image_missing", missing[0])
    return RawRecord(place, generators, images, columns["original_prompt"], columns["positive_prompt"])
