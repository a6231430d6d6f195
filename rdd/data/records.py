"""A record on its way to the encoder, as one type for each stage: indexed, raw, decoded, or rejected.

Between tasks of the graph records travel as tables (``schema.INDEX``, ``RAW``, ``DECODED``, ``features_schema``), in which a
rejected record keeps its place and its reason alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import pyarrow as pa

from rdd.data.file_facts import FileFacts
from rdd.feature_names import view_name
from rdd.schema import FILE_FACTS


@dataclass(frozen=True)
class Place:
    """Where a record stands."""

    key: str
    """File and row: unique by construction."""
    source: str
    """The file or folder."""
    row: int
    """The row in it."""
    record_id: str | None
    """The data set's own id, which may be missing or stand twice."""


@dataclass(frozen=True)
class RejectedRecord:
    """A record that can not be used, and why."""

    place: Place
    stage: str
    """Where it failed: index, read, decode or encode."""
    reason: str
    """One word to count by."""
    detail: str | None
    """What a person wants to know."""


@dataclass(frozen=True)
class IndexedRecord:
    """A record before any of it is read."""

    place: Place
    rows: list[int]
    """Rows of its images in the source."""
    paths: list[str] | None
    """Files of its images, where they are files of their own."""
    generators: list[str] | None
    """What made each image, where the index knows it."""
    caption: str | None


@dataclass(frozen=True)
class RawRecord:
    """A record with the bytes of its images as they were stored."""

    place: Place
    generators: list[str]
    """What made each of k images; ``real`` for a real one."""
    images: list[bytes]
    """k files."""
    text_original: str | None
    text_positive: str | None


@dataclass(frozen=True)
class DecodedRecord:
    """A record with its images resized and cropped, its prompts as tokens, and what is known of its files."""

    place: Place
    generators: list[str]
    pixels: list[bytes]
    """k times (height, width, 3) uint8."""
    views: list[list[bytes]]
    """The same of each view of the images."""
    caption_original: str | None
    caption_positive: str | None
    tokens_original: bytes | None
    """(L,) little-endian int32 of the prompt; None where text is not wanted."""
    tokens_positive: bytes | None
    prompts_cut: int
    """Prompts that were longer than CLIP's context."""
    files: list[FileFacts]
    """k files."""


Reader = Callable[[pa.Table], Iterator[pa.Table]]
"""Takes index rows of one source (``schema.INDEX``), gives their records (tables of ``schema.RAW``, a few rows each)."""

Record = RejectedRecord | IndexedRecord | RawRecord | DecodedRecord
RecordType = TypeVar("RecordType", IndexedRecord, RawRecord)


def reject(place: Place, stage: str, reason: str, detail: str | None = None) -> RejectedRecord:
    """A rejected record: its place, the stage that rejected it, and why."""
    return RejectedRecord(place, stage, reason, detail)


def to_table(records: Iterable[Record], schema: pa.Schema) -> pa.Table:
    """Records as rows of a schema; what a record does not have is null."""
    rows = [vars(record.place) | _own_columns(record) for record in records]
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


def _own_columns(record: Record) -> dict[str, Any]:
    columns = {name: value for name, value in vars(record).items() if name not in ("place", "files", "views")}
    if isinstance(record, DecodedRecord):
        columns |= {view_name("pixels", view): pixels for view, pixels in enumerate(record.views, start=1)}
        columns |= {name: [getattr(file, fact) for file in record.files] for name, fact in FILE_FACTS.items()}
    return columns


def from_table(table: pa.Table, kind: type[RecordType]) -> list[RecordType | RejectedRecord]:
    """The records of a table, those rejected as such."""
    names = [field.name for field in fields(kind) if field.name != "place"]
    records: list[RecordType | RejectedRecord] = []
    for row in table.to_pylist():
        place = Place(row["key"], row["source"], row["row"], row["record_id"])
        if row["reason"] is not None:
            records.append(RejectedRecord(place, row["stage"], row["reason"], row["detail"]))
        else:
            records.append(kind(place, **{name: row[name] for name in names}))
    return records


def split_rejected(
    records: Sequence[RecordType | RejectedRecord],
) -> tuple[list[RejectedRecord], list[RecordType]]:
    """The rejected ones, and the others."""
    rejected = [record for record in records if isinstance(record, RejectedRecord)]
    return rejected, [record for record in records if not isinstance(record, RejectedRecord)]
