"""The many small files of an embedding's commits, rewritten to few of a stated size, with the records in order.

In two phases, so that a kill at any moment loses and doubles nothing. The plan is noted first, whole or not at all. Then its
files are written beside those of the commits; a file appears whole or not at all, so what is there is done. When all are there
the files of the commits are deleted. A run that finds a plan goes on with it before it does anything else with the files, and
whatever of the two phases is left, is left to do again. Nothing is renamed, since object stores can not.
"""

import logging
import posixpath
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rdd import storage
from rdd.embedding.caption_cosine import with_cosines
from rdd.embedding.resume import READ_THREADS, WORK, read_table
from rdd.progress import logged

logger = logging.getLogger(__name__)

ROW_GROUP_BYTES = 32 * 2**20
"""Of a row group: some megabytes a feature, which a reader asks an object store for at once and holds in memory."""


@dataclass(frozen=True)
class Rows:
    """A file of a commit, and where in a new file its first and its last row of that file go."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class NewFile:
    """A file to write: consecutive records of the index."""

    name: str
    start: int
    """The first record, counted over the whole index."""
    rows: int
    sources: list[Rows]
    """The files that hold them, by the first of their rows."""


@dataclass(frozen=True)
class Compaction:
    """What is to be written, and from what."""

    rows_per_group: int
    files: list[NewFile]

    @property
    def names(self) -> frozenset[str]:
        """Of the new files."""
        return frozenset(file.name for file in self.files)


def plan_compaction(tables: Mapping[str, pa.Table], index: pa.Table, output: str, *, file_bytes: int) -> Compaction:
    """Plan files of about one size, with the records in the order of the index, and note the plan.

    Args:
        tables: by path of each committed file its ``key`` column; every record is there once.
        index: the records (``schema.INDEX``).
        output: directory of the embedding.
        file_bytes: size of a file, at least 1.
    """
    names = [posixpath.basename(path) for path in tables]
    sizes = {file.path: file.size for file in storage.list_files(storage.join(output, "data"))}
    row_bytes = max(1.0, sum(sizes[path] for path in tables) / index.num_rows)
    number = max(1, round(index.num_rows * row_bytes / file_bytes))
    rows = -(-index.num_rows // number)
    place = _places(pa.chunked_array([chunk for table in tables.values() for chunk in table["key"].chunks]), index["key"])
    source = np.repeat(np.arange(len(names)), [table.num_rows for table in tables.values()])
    order = np.argsort(place, kind="stable")
    place, source = place[order], source[order]
    starts = range(0, index.num_rows, rows)
    unique = uuid.uuid4().hex[:8]  # files of an earlier rewriting may be among the sources, see rdd.embedding.reopen
    files = [
        NewFile(
            f"features-{unique}-{i:05d}-of-{len(starts):05d}.parquet",
            start,
            min(rows, index.num_rows - start),
            _sources(source[start : start + rows], names),
        )
        for i, start in enumerate(starts)
    ]
    plan = Compaction(max(1, int(ROW_GROUP_BYTES / row_bytes)), files)
    storage.write_json(_note(output), asdict(plan))
    return plan


def planned(output: str) -> Compaction | None:
    """The plan that an earlier run has noted, if there is one."""
    if not storage.exists(_note(output)):
        return None
    shape = {"rows_per_group": int, "files": list}
    noted = storage.read_json(_note(output), shape, way_out="delete the output directory to embed again")
    files = [NewFile(**(file | {"sources": [Rows(**rows) for rows in file["sources"]]})) for file in noted["files"]]
    return Compaction(noted["rows_per_group"], files)


def missing_files(plan: Compaction, output: str) -> list[NewFile]:
    """The files of a plan that are not there yet."""
    folder = storage.join(output, "data")
    there = {posixpath.basename(file.path) for file in storage.list_files(folder, suffix=".parquet")}
    return [file for file in plan.files if file.name not in there]


def write_new_file(file: NewFile, keys: pa.ChunkedArray, output: str, options: Mapping[str, Any], rows_per_group: int) -> None:
    """Write one file of a plan, whole or not at all; in memory are a row group and the files of the commits that it comes from.

    Args:
        file: which.
        keys: of all records, in the order of the index.
        output: directory of the embedding.
        options: of ``pyarrow.parquet.write_table``, with ``schema``, as the files of the commits were written.
        rows_per_group: records of a row group.

    Raises:
        RuntimeError: a file of the commits is damaged or lacks a record, or there is no room.
    """
    schema = options["schema"]
    with (
        storage.atomic_output(storage.join(output, "data", file.name)) as stream,
        pq.ParquetWriter(stream, **options) as writer,
    ):
        for table in _in_order(file, keys.slice(file.start, file.rows), output, rows_per_group):
            writer.write_table(table.select(schema.names).cast(schema))


def delete_sources(plan: Compaction, output: str) -> None:
    """Delete the files of the commits, and what killed writers have left, once every file of the plan is there.

    Raises:
        RuntimeError: one is not.
    """
    if missing := missing_files(plan, output):
        raise RuntimeError(
            f"{storage.join(output, 'data', missing[0].name)} must be there and is not; start the same command again"
        )
    sources = {rows.name for file in plan.files for rows in file.sources}
    there = [file.path for file in storage.list_files(storage.join(output, "data"), suffix=".parquet")]
    left = [path for path in there if posixpath.basename(path) in sources]
    storage.delete_temporaries(storage.join(output, "data"))
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for _ in logged(pool.map(storage.delete_file, left), total=len(left), what="small files deleted"):
            pass


def _note(output: str) -> str:
    return storage.join(output, WORK, "compaction.json")


def _places(keys: pa.ChunkedArray, among: pa.ChunkedArray) -> np.ndarray:
    """``(n,)``: where each key stands among others; -1 where it does not."""
    return np.asarray(pc.fill_null(pc.index_in(keys, value_set=among.combine_chunks()), -1))


def _sources(source: np.ndarray, names: Sequence[str]) -> list[Rows]:
    """The files that some consecutive records lie in, given as the number of the file of each record."""
    numbers, first = np.unique(source, return_index=True)
    last = len(source) - 1 - np.unique(source[::-1], return_index=True)[1]
    return [Rows(names[numbers[i]], int(first[i]), int(last[i])) for i in np.argsort(first)]


def _in_order(file: NewFile, keys: pa.ChunkedArray, output: str, rows_per_group: int) -> Iterator[pa.Table]:
    """The rows of a new file, a row group at a time; a file of a commit is in memory from its first row to its last."""
    waiting, held = deque(file.sources), list[tuple[int, pa.Table, np.ndarray]]()
    for start in range(0, file.rows, rows_per_group):
        stop = min(start + rows_per_group, file.rows)
        while waiting and waiting[0].first < stop:
            rows = waiting.popleft()
            table = with_cosines(read_table(storage.join(output, "data", rows.name)))
            held.append((rows.last, table, _places(table["key"], keys)))
        parts, places = [], []
        for _, table, place in held:
            here = np.flatnonzero((place >= start) & (place < stop))
            parts.append(table.take(here))
            places.append(place[here])
        order = np.argsort(np.concatenate(places))
        if not np.array_equal(np.concatenate(places)[order], np.arange(start, stop)):
            raise RuntimeError(
                f"the files that {file.name} is written from hold {len(order)} rows for {stop - start} records, which must not "
                f"happen; delete {output} and embed again"
            )
        yield pa.concat_tables(parts).take(order)
        held = [one for one in held if one[0] >= stop]
