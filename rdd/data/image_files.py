"""Records whose images are files of their own."""

from collections.abc import Iterator

import pyarrow as pa

from rdd import storage
from rdd.data.records import IndexedRecord, RawRecord, RejectedRecord, from_table, reject, split_rejected, to_table
from rdd.schema import RAW


def read_files(index: pa.Table) -> Iterator[pa.Table]:
    """Bytes of the images of some records, a record at a time; those already rejected pass through."""
    rejected, wanted = split_rejected(from_table(index, IndexedRecord))
    if rejected:
        yield to_table(rejected, RAW)
    for record in wanted:
        yield to_table([_read(record)], RAW)


def raw_record(record: IndexedRecord, images: list[bytes]) -> RawRecord:
    """A record of the index with its images; its one caption serves every text mode."""
    assert record.generators is not None
    return RawRecord(record.place, record.generators, images, record.caption, record.caption)


def _read(record: IndexedRecord) -> RawRecord | RejectedRecord:
    assert record.paths is not None
    try:
        images = [storage.read_bytes(path) for path in record.paths]
    except Exception as error:  # a file system raises its own types, S3 several
        return reject(record.place, "read", "unreadable_file", str(error))
    return raw_record(record, images)
