"""One memory map of the features per node, which all its processes share."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from rdd import storage
from rdd.features.files import OnProgress, feature_files, identity_of, ignored, read_columns
from rdd.features.index import ImageIndex, index_images
from rdd.hashing import sha256_bytes, sha256_file_in_parts
from rdd.schema import FEATURE_DTYPE

logger = logging.getLogger(__name__)

_WAIT_S = 0.2
_ROWS_FILE, _IMAGES_FILE, _RECORDS_FILE = _FILES = ("rows.npy", "images.arrow", "records.arrow")
_CHECKSUMS_FILE = "checksums.json"
_LAYOUT = "2"
"""Of the files in a map; a change of it leaves the maps of earlier versions to :mod:`rdd.features.old_maps`."""


def map_folder() -> str:
    """Where a node keeps its memory maps of features, for all processes of this user."""
    given = os.environ.get("RDD_MAP_DIR")
    return os.path.join(storage.absolute(given) if given else tempfile.gettempdir(), f"rdd-features-{os.getuid()}")


def read_shared(
    path: str, manifest: dict[str, Any], shared: str, on_progress: OnProgress = ignored
) -> tuple[np.ndarray, ImageIndex]:
    """One memory map per node, below ``shared``: whoever comes first writes it, and the others wait for the lock.

    The index of the images is mapped like the features, so that a process has next to no memory of its own for either.

    A map whose bytes are not those that were written is written again. Its checksum is verified by the first process that opens
    it after the machine has started or its file has changed, which the file's times tell.

    Args:
        path: directory of the features.
        manifest: of the features.
        shared: folder of the memory maps.
        on_progress: gets how far the writing of the map is, also while another process writes it.

    Returns:
        The rows of the features, see :class:`rdd.features.files.Columns`, and the index of the images; read only.

    Raises:
        RuntimeError: the files are not what the manifest says; or ``shared`` is not this user's alone, or has no room.
    """
    make_private(shared)
    folder = map_of(path, manifest, shared)
    with _exclusive(f"{folder}.lock", on_progress) as note:
        if os.path.exists(folder) and not _is_whole(folder, note):
            logger.warning("the memory map in %s is not what was written; writing it again", folder)
            shutil.rmtree(folder)
        if not os.path.exists(folder):
            _write_map(path, manifest, folder, note)
        rows = np.load(os.path.join(folder, _ROWS_FILE), mmap_mode="r")
        images, records = (_read_arrow(os.path.join(folder, name)) for name in (_IMAGES_FILE, _RECORDS_FILE))
    generators = images["generator"]
    index = ImageIndex(
        order=images["order"].to_numpy(),
        record_of=images["record_of"].to_numpy(),
        generator_of=generators.indices.to_numpy(),
        generators=tuple(generators.dictionary.to_pylist()),
        record_ids=records["record_id"],
    )
    return rows, index


def map_of(path: str, manifest: dict[str, Any], shared: str) -> str:
    """Folder of the memory map of some features, whether it is there or not.

    When a file was last written is part of its name: one that was changed in its place gets a new map, and its old one is not
    used on.
    """
    written = [file.written_ns for file in storage.list_files(storage.join(path, "data"))]
    name = sha256_bytes(json.dumps([_LAYOUT, identity_of(path, manifest), written]).encode())
    return os.path.join(shared, name)


def make_private(folder: str) -> None:
    """Make a folder that only this user may write to, or check that it is one.

    Raises:
        RuntimeError: it is a link or no folder, another user's, or others may write to it, so that its content may be theirs.
    """
    try:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, mode=0o700)
    except OSError as error:
        raise RuntimeError(f"{folder} can not be made for memory maps: {error.strerror}; set RDD_MAP_DIR to a disk") from error
    there = os.lstat(folder)
    private = stat.S_ISDIR(there.st_mode) and there.st_uid == os.getuid() and not there.st_mode & 0o022
    if not private:
        raise RuntimeError(
            f"{folder} must be a folder of yours that only you may write to, got mode {stat.filemode(there.st_mode)} of user "
            f"{there.st_uid}: features in it may be another's; delete it, or set RDD_MAP_DIR to another disk"
        )


def _write_map(path: str, manifest: dict[str, Any], folder: str, on_progress: OnProgress) -> None:
    """The columns as files of numpy, complete and on the disk, or not there."""
    beside = f"{folder}.partial"
    shutil.rmtree(beside, ignore_errors=True)
    os.makedirs(beside, mode=0o700)
    logger.info("writing the memory map of %s to %s", path, folder)
    place = os.path.join(beside, _ROWS_FILE)

    def allocate(shape: tuple[int, int]) -> np.ndarray:
        rows = np.lib.format.open_memmap(place, mode="w+", dtype=FEATURE_DTYPE, shape=shape)
        with open(place, "r+b") as file:  # reserve the space: writing to a sparse map on a full disk kills the process (SIGBUS)
            try:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(place))
            except OSError as error:
                size = os.path.getsize(place) / 2**30
                shutil.rmtree(beside, ignore_errors=True)
                raise RuntimeError(
                    f"no room for a memory map of {size:.3g} GiB in {os.path.dirname(folder)} ({error.strerror}); "
                    "set RDD_MAP_DIR to a larger disk; training can also do without, by features.held stream"
                ) from error
        return rows

    columns = read_columns(feature_files(path), manifest, allocate, on_progress=on_progress)
    assert isinstance(columns.rows, np.memmap)
    columns.rows.flush()
    index = index_images(path, columns.index, manifest)
    generators = pa.DictionaryArray.from_arrays(index.generator_of, list(index.generators))
    images = {"order": index.order, "record_of": index.record_of, "generator": generators}
    _write_arrow(os.path.join(beside, _IMAGES_FILE), images)
    _write_arrow(os.path.join(beside, _RECORDS_FILE), {"record_id": index.record_ids})
    _note_checksums(beside, _checksums(beside, on_progress))
    for name in (*os.listdir(beside), "."):
        _to_disk(os.path.join(beside, name))
    os.replace(beside, folder)
    _to_disk(os.path.dirname(folder))


def _write_arrow(path: str, columns: dict[str, Any]) -> None:
    """Columns as one batch of Arrow, which can be mapped as it is."""
    batch = pa.record_batch(columns)
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def _read_arrow(path: str) -> pa.RecordBatch:
    """The one batch of a file, in the memory of its map."""
    return pa.ipc.open_file(pa.memory_map(path)).get_batch(0)


def _is_whole(folder: str, on_progress: OnProgress) -> bool:
    """Whether the files of a map have the checksums that were noted when they were written."""
    try:
        with open(os.path.join(folder, _CHECKSUMS_FILE)) as file:
            noted = json.load(file)
        if noted["seen"] == _seen(folder):
            return True
        if noted["sha256"] != _checksums(folder, on_progress):
            return False
    except (OSError, ValueError, KeyError, TypeError):  # files are missing or torn
        return False
    _note_checksums(folder, noted["sha256"])
    return True


def _note_checksums(folder: str, sha256: dict[str, str]) -> None:
    storage.write_json(os.path.join(folder, _CHECKSUMS_FILE), {"sha256": sha256, "seen": _seen(folder)})


def _checksums(folder: str, on_progress: OnProgress) -> dict[str, str]:
    """SHA-256 of each file of a map."""
    on_progress("checking the memory map of features")
    return {name: sha256_file_in_parts(os.path.join(folder, name)) for name in _FILES}


def _seen(folder: str) -> list[Any]:
    """Which start of the machine this is, and of each file what changes when it is written to."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        seen: list[Any] = [file.read().strip()]
    for name in _FILES:
        now = os.stat(os.path.join(folder, name))
        seen.append([now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns])
    return seen


def _to_disk(path: str) -> None:
    """Wait until a file or a folder would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _exclusive(path: str, on_progress: OnProgress) -> Iterator[OnProgress]:
    """Hold a lock file, and yield the callback for the holder's progress, which writes it into that file.

    Processes that wait for the lock read the file and report that progress as theirs, so that none of them seems stalled.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                on_progress(file.read())
                time.sleep(_WAIT_S)

        def note(progress: str) -> None:
            file.truncate(0)
            file.write(progress)
            file.flush()
            on_progress(progress)

        os.utime(path)  # when it was last used, for :mod:`rdd.features.old_maps`
        yield note
