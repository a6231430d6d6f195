"""Reads the images of :mod:`rdd.data.unlabelled`: from files, from the tables that hold them, and from the web."""

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from rdd import storage
from rdd.config.fetch import FetchConfig
from rdd.data.image_files import raw_record
from rdd.data.manifest import read_column
from rdd.data.records import IndexedRecord, RawRecord, RejectedRecord, from_table, reject, split_rejected, to_table
from rdd.schema import INDEX, RAW

_FETCHING = threading.Lock()
"""One crowd of requests at a time in a process, so that a host is asked by no more than ``fetch.per_host`` of them."""


@dataclass(frozen=True)
class UnlabelledReader:
    """Reads index rows of one source; picklable and small."""

    fetch: FetchConfig | None
    """How addresses are fetched; None where there are none."""

    def __call__(self, index: pa.Table) -> Iterator[pa.Table]:
        """Bytes of the images, a few at a time; those already rejected pass through, in no fixed order."""
        rejected, wanted = split_rejected(from_table(index, IndexedRecord))
        if rejected:
            yield to_table(rejected, RAW)
        if held := [record for record in wanted if record.paths is None]:
            yield from read_column(to_table(held, INDEX))
        named = [(record, record.paths[0]) for record in wanted if record.paths is not None]
        for record, path in named:
            if not is_address(path):
                yield to_table([_read(record, path)], RAW)
        if addressed := [(record, path) for record, path in named if is_address(path)]:
            yield to_table(self._fetched(addressed), RAW)

    def _fetched(self, addressed: Sequence[tuple[IndexedRecord, str]]) -> Iterator[RawRecord | RejectedRecord]:
        from rdd.data.fetch_few import fetch_few  # and with it aiohttp, which most runs do without

        assert self.fetch is not None, "refused before any work"
        with _FETCHING:
            outcomes = asyncio.run(fetch_few([address for _, address in addressed], self.fetch))
        for (record, _), outcome in zip(addressed, outcomes, strict=True):
            if outcome.data is None:
                yield reject(record.place, "read", outcome.status, outcome.detail)
            else:
                yield raw_record(record, [outcome.data])


def is_address(path: str) -> bool:
    """Whether a path is an address of the web."""
    return path.lower().startswith(("http://", "https://"))


def _read(record: IndexedRecord, path: str) -> RawRecord | RejectedRecord:
    """The bytes of a file, or why there are none.

    Raises:
        RuntimeError: a store does not answer or gives no access, which would be so for all of its images.
    """
    try:
        if (special := _special(path)) is not None:
            return reject(record.place, "read", *special)
        return raw_record(record, [storage.read_bytes(path)])
    except FileNotFoundError:
        return reject(record.place, "read", "missing", f"there is no file at {path}")
    except Exception as error:  # a file system raises its own types, S3 several; a path may hold what none can be
        if storage.is_remote(path) and not isinstance(error, ValueError):
            raise RuntimeError(
                f"{path} can not be read from the store ({error or type(error).__name__}); start the command again when it "
                "answers, or gives access"
            ) from error
        if isinstance(error, PermissionError):
            return reject(record.place, "read", "permission_denied", f"{path} may not be read by this user")
        return reject(record.place, "read", "unreadable_file", " ".join(str(error).split()))


def _special(path: str) -> tuple[str, str] | None:
    """Why something that is there is no file to read: reading a pipe or a device may never end."""
    if storage.is_remote(path):
        return None
    place = storage.absolute(path)
    if os.path.isdir(place):
        return "is_directory", f"{path} is a folder"
    if os.path.exists(place) and not os.path.isfile(place):
        return "not_a_file", f"{path} is a pipe, a socket or a device"
    return None
