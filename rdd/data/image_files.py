"""Records whose images are files of their own."""

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from rdd import storage
from rdd.data.records import IndexedRecord, RawRecord, RejectedRecord, from_table, reject, split_rejected, to_table
from rdd.schema import RAW

ANYWHERE = "any"
"""Value of ``records.root`` that lets a record name any file that this process may read."""


@dataclass(frozen=True)
class FileReader:
    """Reads the files that index rows name, if they lie where files may be read; picklable and small."""

    root: str
    """Folder that they must lie in, local or on S3, or ``any``."""

    def __call__(self, index: pa.Table) -> Iterator[pa.Table]:
        """Bytes of the images of some records, a record at a time; those already rejected pass through."""
        rejected, wanted = split_rejected(from_table(index, IndexedRecord))
        if rejected:
            yield to_table(rejected, RAW)
        for record in wanted:
            yield to_table([self._read(record)], RAW)

    def _read(self, record: IndexedRecord) -> RawRecord | RejectedRecord:
        assert record.paths is not None
        try:
            if outside := [path for path in record.paths if not lies_below(self.root, path)]:
                return reject(record.place, "read", "outside_root", f"{outside[0]} does not lie below {self.root}")
            if odd := [path for path in record.paths if _is_special(path)]:
                return reject(record.place, "read", "unreadable_file", f"{odd[0]} is no regular file")
            images = [storage.read_bytes(path) for path in record.paths]
        except Exception as error:  # a file system raises its own types, S3 several; a path may hold what none can be
            if any(map(_lies_in_a_store, record.paths)) and not isinstance(error, FileNotFoundError | ValueError):
                raise RuntimeError(
                    f"{', '.join(record.paths)} can not be read from the store ({error or type(error).__name__}); "
                    "when it answers, or gives access, the same command goes on where it stopped"
                ) from error
            return reject(record.place, "read", "unreadable_file", str(error))
        return raw_record(record, images)


def _lies_in_a_store(path: str) -> bool:
    """Whether it lies in a store that holds the other images, too: where that fails, or a token has ended, none can be read."""
    return storage.is_remote(path) and not path.startswith(("http://", "https://"))


def _is_special(path: str) -> bool:
    """Whether it is there and no regular file: reading a pipe or a device may never end."""
    if storage.is_remote(path):
        return False
    place = storage.absolute(path)
    return os.path.exists(place) and not os.path.isfile(place)


def lies_below(root: str, path: str) -> bool:
    """Whether a file or folder lies in a folder: on a local disk where its links lead to, in a bucket by its name.

    Args:
        root: the folder, or ``any``, in which everything lies.
        path: of the file or folder.
    """
    if root == ANYWHERE:
        return True
    if storage.is_remote(root) != storage.is_remote(path):
        return False
    if storage.is_remote(root):
        scheme, inner = path.split("://", 1)
        place, folder = f"{scheme}://{posixpath.normpath(inner)}", root.rstrip("/")
    else:
        place, folder = os.path.realpath(storage.absolute(path)), os.path.realpath(storage.absolute(root)).rstrip("/")
    return place == folder or place.startswith(f"{folder}/")


def raw_record(record: IndexedRecord, images: list[bytes]) -> RawRecord:
    """A record of the index with its images; its one caption serves every text mode."""
    assert record.generators is not None
    return RawRecord(record.place, record.generators, images, record.caption, record.caption)
