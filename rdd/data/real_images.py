"""The real image of a D3 record, looked up by id."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.compute as pc

from rdd.data.file_sets import parquet_files
from rdd.data.parquet_rows import UNREADABLE, check_columns, open_parquet, read_group
from rdd.hashing import hash_strings
from rdd.progress import logged
from rdd.schema import REAL_IMAGES, STATUS_OK

logger = logging.getLogger(__name__)

_IDS_AT_A_TIME, _IMAGES_AT_A_TIME = 2**14, 64
_LISTING_THREADS = 16  # as for records: latency, not bandwidth


class RealImages:
    """An index over Parquet files of real images: 16 bytes an id, whatever the images weigh.

    Nothing is shuffled: a reader asks for the ids it has and gets them from the row groups that hold them, each read once
    for the ids of a batch. Tables in the order of the records, as fetch and sample write them, are read from front to back.

    Args:
        path: Parquet files (``schema.REAL_IMAGES``), as :func:`rdd.data.file_sets.parquet_files` takes them.

    Raises:
        ValueError: there are no such files, or columns are missing or of another type.
    """

    def __init__(self, path: str) -> None:
        self._paths = [named.file.path for named in parquet_files(path, what=" of real images")]
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        ids: list[str] = []
        group_of: list[np.ndarray] = []
        with ThreadPoolExecutor(_LISTING_THREADS) as pool:
            read = pool.map(_ids_by_row_group, self._paths)
            ids_of_files = list(logged(read, total=len(self._paths), what="files of real images"))
        for number, ids_of_groups in enumerate(ids_of_files):
            for group, names in enumerate(ids_of_groups):
                group_of.append(np.full(len(names), len(self._groups), dtype=np.int64))
                self._groups.append((number, group))
                ids += names
        hashes = hash_strings(ids)
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._group_of = (np.concatenate(group_of) if group_of else np.empty(0, dtype=np.int64))[order]

    def have_image(self, ids: Sequence[str]) -> np.ndarray:
        """``(N,)`` bool: whether an entry of each id has the status ok, from a pass over the ids and statuses of all files."""
        with ThreadPoolExecutor(_LISTING_THREADS) as pool:
            read = pool.map(_hashes_with_image, self._paths)
            hashes = list(logged(read, total=len(self._paths), what="files of real images"))
        return np.isin(hash_strings(ids), np.concatenate(hashes))

    def lookup(self, ids: Sequence[str]) -> dict[str, tuple[str, bytes | None]]:
        """Status and bytes of each id that the tables know; the first entry with status ok wins."""
        hashes = hash_strings(ids)
        first = np.searchsorted(self._hashes, hashes, side="left")
        last = np.searchsorted(self._hashes, hashes, side="right")
        groups = sorted({int(self._group_of[i]) for a, b in zip(first, last, strict=True) for i in range(a, b)})
        entries: dict[str, tuple[str, bytes | None]] = {}
        for group in groups:
            here = [name for name, a, b in zip(ids, first, last, strict=True) if group in self._group_of[a:b]]
            for record_id, status, data in self._read(group, here):
                if entries.get(record_id, ("", None))[0] != STATUS_OK or entries[record_id][1] is None:
                    entries[record_id] = (status, data)
        return entries

    def _read(self, group: int, ids: Sequence[str]) -> list[tuple[str, str, bytes | None]]:
        number, row_group = self._groups[group]
        rows: list[tuple[str, str, bytes | None]] = []
        with open_parquet(self._paths[number]) as (file, stream):
            for _, batch in read_group(file, stream, row_group, ["id", "status", "bytes"], at_a_time=_IMAGES_AT_A_TIME):
                if isinstance(batch, str):
                    found = {record_id for record_id, _, _ in rows}
                    return rows + [(name, f"{UNREADABLE}: {batch}", None) for name in ids if name not in found]
                for i, record_id in enumerate(batch.column("id").to_pylist()):
                    if record_id in ids:
                        rows.append((record_id, batch.column("status")[i].as_py(), batch.column("bytes")[i].as_py()))
        return rows


def _ids_by_row_group(path: str) -> list[list[str]]:
    """The ids of each row group; those that can not be read are missing, so that their records are rejected."""
    groups: list[list[str]] = []
    with open_parquet(path) as (file, stream):
        check_columns(path, file.schema_arrow, REAL_IMAGES)
        for group in range(file.num_row_groups):
            groups.append([])
            for first, batch in read_group(file, stream, group, ["id"], at_a_time=_IDS_AT_A_TIME):
                if isinstance(batch, str):
                    logger.warning(
                        "%s: the ids of row group %d from its row %d on are unreadable: %s", path, group, first, batch
                    )
                else:
                    groups[-1] += [name or "" for name in batch.column("id").to_pylist()]
    return groups


def _hashes_with_image(path: str) -> np.ndarray:
    """``(n,)`` uint64: hash of the id of each entry with the status ok; of rows that can not be read, none."""
    names: list[str] = []
    with open_parquet(path) as (file, stream):
        for group in range(file.num_row_groups):
            for _, batch in read_group(file, stream, group, ["id", "status"], at_a_time=_IDS_AT_A_TIME):
                if not isinstance(batch, str):
                    ok = pc.equal(batch.column("status"), STATUS_OK)
                    names += [name or "" for name in batch.column("id").filter(ok).to_pylist()]
    return hash_strings(names)
