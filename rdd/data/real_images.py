"""The real image of a D3 record, looked up by id."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq

from rdd import storage
from rdd.data.parquet_rows import check_columns, read_schema
from rdd.hashing import hash_strings
from rdd.progress import logged
from rdd.schema import REAL_IMAGES, STATUS_OK

_LISTING_THREADS = 16  # as for records: latency, not bandwidth


class RealImages:
    """An index over Parquet files of real images: 16 bytes an id, whatever the images weigh.

    Nothing is shuffled: a reader asks for the ids it has and gets them from the row groups that hold them, each read once
    for the ids of a batch. Tables in the order of the records, as fetch and sample write them, are read from front to back.

    Args:
        path: directory of Parquet files (``schema.REAL_IMAGES``).

    Raises:
        ValueError: there are no such files, or columns are missing or of another type.
    """

    def __init__(self, path: str) -> None:
        files = storage.list_files(path, suffix=".parquet")
        if not files:
            raise ValueError(f"no Parquet file of real images below {path}")
        self._paths = [file.path for file in files]
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        ids: list[str] = []
        group_of: list[np.ndarray] = []
        with ThreadPoolExecutor(_LISTING_THREADS) as pool:
            read = pool.map(_ids_by_row_group, self._paths)
            ids_of_files = list(logged(read, total=len(files), what="files of real images"))
        for number, ids_of_groups in enumerate(ids_of_files):
            for group, names in enumerate(ids_of_groups):
                group_of.append(np.full(len(names), len(self._groups), dtype=np.int64))
                self._groups.append((number, group))
                ids += names
        hashes = hash_strings(ids)
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._group_of = (np.concatenate(group_of) if group_of else np.empty(0, dtype=np.int64))[order]

    def lookup(self, ids: Sequence[str]) -> dict[str, tuple[str, bytes | None]]:
        """Status and bytes of each id that the tables know; the first entry with status ok wins."""
        hashes = hash_strings(ids)
        first = np.searchsorted(self._hashes, hashes, side="left")
        last = np.searchsorted(self._hashes, hashes, side="right")
        groups = sorted({int(self._group_of[i]) for a, b in zip(first, last, strict=True) for i in range(a, b)})
        entries: dict[str, tuple[str, bytes | None]] = {}
        for group in groups:
            for record_id, status, data in self._read(group, set(ids)):
                if entries.get(record_id, ("", None))[0] != STATUS_OK or entries[record_id][1] is None:
                    entries[record_id] = (status, data)
        return entries

    def _read(self, group: int, ids: set[str]) -> list[tuple[str, str, bytes | None]]:
        number, row_group = self._groups[group]
        fs, inner = storage.filesystem(self._paths[number])
        rows: list[tuple[str, str, bytes | None]] = []
        with fs.open_input_file(inner) as stream:
            batches = pq.ParquetFile(stream).iter_batches(
                batch_size=64, row_groups=[row_group], columns=["id", "status", "bytes"]
            )
            for batch in batches:
                for i, record_id in enumerate(batch.column("id").to_pylist()):
                    if record_id in ids:
                        rows.append((record_id, batch.column("status")[i].as_py(), batch.column("bytes")[i].as_py()))
        return rows


def _ids_by_row_group(path: str) -> list[list[str]]:
    check_columns(path, read_schema(path), REAL_IMAGES)
    fs, inner = storage.filesystem(path)
    with fs.open_input_file(inner) as stream:
        file = pq.ParquetFile(stream)
        groups = (file.read_row_group(group, columns=["id"]).column("id") for group in range(file.num_row_groups))
        return [[name or "" for name in group.to_pylist()] for group in groups]
