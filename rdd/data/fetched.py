"""The directory that fetching writes: the files of its table, which of them are committed, and what a resume goes on from.

A file of the table is written beside its place and renamed; then its commit, an empty note named after file and round, makes it
count. A file without one is deleted when the fetch goes on. ``fetch.retry_failed`` begins a further round over the same files.
"""

import logging
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from rdd import storage
from rdd.data.d3_urls import read_addresses
from rdd.hashing import sha256_bytes
from rdd.schema import FETCHED

logger = logging.getLogger(__name__)

WORK = ".work"
"""Folder of an output with the addresses, the round, and the commits."""

ROWS_PER_GROUP = 100
"""Images read together when one of them is looked up."""

OPTIONS = {
    "row_group_size": ROWS_PER_GROUP,
    "write_page_checksum": True,
    "use_dictionary": ["status", "content_type"],
    "compression": {name: "none" if name == "bytes" else "zstd" for name in FETCHED.names},
}
"""Of Parquet: images do not compress, and a changed bit is noticed."""


@dataclass(frozen=True)
class Part:
    """Consecutive records that make one file of the table."""

    name: str
    start: int
    """The first record, counted over the whole set."""
    rows: int

    def path(self, output: str) -> str:
        """Where the file is."""
        return storage.join(output, "data", f"{self.name}.parquet")


def parts_of(records: int, records_per_file: int) -> list[Part]:
    """The files of a table, in the order of the records."""
    number = -(-records // records_per_file)
    starts = range(0, records, records_per_file)
    return [
        Part(f"real-{i:05d}-of-{number:05d}", start, min(records_per_file, records - start)) for i, start in enumerate(starts)
    ]


def part_of_row(row: int, records_per_file: int) -> tuple[int, int]:
    """Number of the file that holds a record, and the row in it."""
    return divmod(row, records_per_file)


def write_part(output: str, part: Part, table: pa.Table) -> None:
    """Write a file of the table, whole or not at all; it counts once it is committed."""
    storage.write_table(part.path(output), table.select(FETCHED.names).cast(FETCHED), **OPTIONS)


def read_part(output: str, part: Part, columns: list[str] | None = None) -> pa.Table:
    """A committed file of the table, or some of its columns.

    Raises:
        RuntimeError: it is damaged.
    """
    return storage.read_table(part.path(output), columns, way_out=f"delete {output} to fetch again")


def commit(output: str, part: Part, round_number: int) -> None:
    """Make a written file count in a round."""
    storage.write_bytes(storage.join(output, WORK, "commits", f"{part.name}.{round_number}"), b"")


def committed(output: str) -> set[tuple[str, int]]:
    """Names of the committed files with the rounds that they are committed in."""
    folder = storage.join(output, WORK, "commits")
    names = [posixpath.basename(file.path) for file in storage.list_files(folder)] if storage.exists(folder) else []
    return {(name.rpartition(".")[0], int(name.rpartition(".")[2])) for name in names}


def missing_parts(output: str, parts: Sequence[Part], round_number: int) -> list[Part]:
    """The parts that are not committed in a round, or whose file is not there.

    A file without its commit is deleted, and the worker of a killed run may have been about to commit it.
    """
    done, folder = committed(output), storage.join(output, "data")
    there = {posixpath.basename(file.path) for file in storage.list_files(folder)} if storage.exists(folder) else set()
    return [part for part in parts if (part.name, round_number) not in done or f"{part.name}.parquet" not in there]


def delete_uncommitted(output: str) -> None:
    """Delete what a killed run has written and not committed."""
    kept = {name for name, _ in committed(output)}
    folder = storage.join(output, "data")
    for file in storage.list_files(folder) if storage.exists(folder) else []:
        if posixpath.basename(file.path).removesuffix(".parquet") not in kept:
            logger.info("deleting %s, which was never committed", file.path)
            storage.delete_file(file.path)


def current_round(output: str) -> int:
    """The round that the directory is in: 0 for the first."""
    path = storage.join(output, WORK, "round.json")
    if not storage.exists(path):
        return 0
    return storage.read_json(path, {"round": int}, way_out=f"delete {output} to fetch again")["round"]


def begin_round(output: str, number: int) -> None:
    """Note that a further round has begun."""
    storage.write_json(storage.join(output, WORK, "round.json"), {"round": number})


def keep_addresses(files: Sequence[storage.File], excluded: frozenset[str], output: str) -> pa.Table:
    """The addresses that a fetch began with; they are read from the records once, and a resume takes them from its directory.

    Args:
        files: of the records.
        excluded: ids that are not fetched.
        output: the directory.

    Returns:
        ``schema.ADDRESSES``.

    Raises:
        RuntimeError: the records or the ids have changed since.
    """
    table_path, note_path = (storage.join(output, WORK, name) for name in ("addresses.parquet", "records.json"))
    note = {
        "files": [[file.path, file.size] for file in files],
        "excluded_ids": sha256_bytes("\n".join(sorted(excluded)).encode()),
    }
    if not storage.exists(note_path):
        table = read_addresses(files, excluded)
        storage.write_table(table_path, table)
        storage.write_json(note_path, note)
        return table
    way_out = f"delete {output} to begin again"
    before = storage.read_json(note_path, {"files": list, "excluded_ids": str}, way_out=way_out)
    for name, what in (("files", "the files of records"), ("excluded_ids", "fetch.excluded_ids")):
        if before[name] != note[name]:
            raise RuntimeError(f"{what} changed since the fetch began; {way_out}")
    return storage.read_table(table_path, way_out=way_out)


def slices(table: pa.Table, parts: Sequence[Part]) -> Iterator[pa.Table]:
    """The rows of each part."""
    for part in parts:
        yield table.slice(part.start, part.rows).combine_chunks()
