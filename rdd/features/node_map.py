"""One memory map of the features per node, which all its processes share.

A map is a folder for each feature set: the index of its images, and a file for each matrix of features that a process of the
node has asked for, so that runs on other inputs add what they lack and share the rest.
"""

import contextlib
import fcntl
import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from rdd import storage
from rdd.features.columns import Layout
from rdd.features.feature_set import FeatureSet
from rdd.features.files import Allocate, OnProgress, ignored
from rdd.features.index import ImageIndex
from rdd.hashing import sha256_bytes, sha256_file_in_parts

logger = logging.getLogger(__name__)

_WAIT_S = 0.2
_IMAGES_FILE, _RECORDS_FILE = _INDEX_FILES = ("images.arrow", "records.arrow")
_CHECKSUMS_FILE = "checksums.json"
_VERSION = "3"
"""Of the files in a map; a change of it leaves the maps of earlier versions to :mod:`rdd.features.old_maps`."""


def map_folder() -> str:
    """Where a node keeps its memory maps of features, for all processes of this user."""
    given = os.environ.get("RDD_MAP_DIR")
    return os.path.join(storage.absolute(given) if given else tempfile.gettempdir(), f"rdd-features-{os.getuid()}")


def read_shared(
    features: FeatureSet, layout: Layout, shared: str, on_progress: OnProgress = ignored
) -> tuple[dict[str, np.ndarray], ImageIndex]:
    """One memory map per node, below ``shared``: whoever comes first writes it, and the others wait for the lock.

    The index of the images is mapped like the features, so that a process has next to no memory of its own for either.

    A file whose bytes are not those that were written is written again. Its checksum is verified by the first process that
    opens it after the machine has started or the file has changed, which its times tell.

    Args:
        features: the features.
        layout: the matrices that are wanted; those that the map lacks are added.
        shared: folder of the memory maps.
        on_progress: gets how far the writing of the map is, also while another process writes it.

    Returns:
        The matrices, see :class:`rdd.features.files.Columns`, and the index of the images; read only.

    Raises:
        ValueError: several directories can not be joined.
        RuntimeError: the files are not what the manifest says; or ``shared`` is not this user's alone, or has no room.
    """
    make_private(shared)
    folder = map_of(features, layout, shared)
    with _exclusive(f"{folder}.lock", on_progress) as note:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        lacking = _lacking(folder, [*_INDEX_FILES, *map(_matrix_file, layout)], note)
        if lacking:
            _write_map(features, layout, folder, lacking, note)
        matrices = {name: np.load(os.path.join(folder, _matrix_file(name)), mmap_mode="r") for name in layout}
        images, records = (_read_arrow(os.path.join(folder, name)) for name in _INDEX_FILES)
    generators = images["generator"]
    index = ImageIndex(
        order=images["order"].to_numpy(),
        record_of=images["record_of"].to_numpy(),
        generator_of=generators.indices.to_numpy(),
        generators=tuple(generators.dictionary.to_pylist()),
        record_ids=records["record_id"],
    )
    return matrices, index


def mapped(features: FeatureSet, layout: Layout, shared: str) -> set[str]:
    """Names of the matrices of a layout that the map of some features has already."""
    folder = map_of(features, layout, shared)
    return {name for name in layout if os.path.exists(os.path.join(folder, _matrix_file(name)))}


def _matrix_file(name: str) -> str:
    return f"{name}.npy"


def map_of(features: FeatureSet, layout: Layout, shared: str) -> str:
    """Folder of the memory map of some features, whether it is there or not.

    When a file was last written is part of its name: one that was changed in its place gets a new map, and its old one is not
    used on. With several directories so is the layout, since the inputs decide which images have all of them.
    """
    named = [_VERSION, features.identity, features.written()] + ([list(layout)] if len(features.members) > 1 else [])
    return os.path.join(shared, sha256_bytes(json.dumps(named).encode()))


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


def _write_map(features: FeatureSet, layout: Layout, folder: str, lacking: list[str], on_progress: OnProgress) -> None:
    """The files that a map lacks, each complete and on the disk, or not there."""
    _drop_partial(folder)  # of a process that was killed
    logger.info("writing the memory map of %s to %s: %s", features.name, folder, ", ".join(lacking))
    wanted = [name for name in layout if _matrix_file(name) in lacking]
    matrices, index = features.read(layout, _allocator(folder), only=wanted, on_progress=on_progress)
    for matrix in matrices.values():
        assert isinstance(matrix, np.memmap)
        matrix.flush()
    if set(lacking) & set(_INDEX_FILES):
        generators = pa.DictionaryArray.from_arrays(index.generator_of, list(index.generators))
        images = {"order": index.order, "record_of": index.record_of, "generator": generators}
        _write_arrow(os.path.join(folder, _IMAGES_FILE + _PARTIAL), images)
        _write_arrow(os.path.join(folder, _RECORDS_FILE + _PARTIAL), {"record_id": index.record_ids})
        lacking = sorted({*lacking, *_INDEX_FILES})
    on_progress(_CHECKING)
    for name in lacking:
        place = os.path.join(folder, name)
        _to_disk(place + _PARTIAL)
        checksum = sha256_file_in_parts(place + _PARTIAL)
        os.replace(place + _PARTIAL, place)
        _note_checksum(folder, name, checksum)
    _to_disk(folder)
    _to_disk(os.path.dirname(folder))


_PARTIAL = ".partial"
_CHECKING = "checking the memory map of features"


def _drop_partial(folder: str) -> None:
    for name in os.listdir(folder):
        if name.endswith(_PARTIAL):
            os.unlink(os.path.join(folder, name))


def _allocator(folder: str) -> Allocate:
    """Makes matrices as files, their space reserved: writing to a sparse map on a full disk would kill the process (SIGBUS)."""

    def allocate(name: str, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
        place = os.path.join(folder, _matrix_file(name) + _PARTIAL)
        matrix = np.lib.format.open_memmap(place, mode="w+", dtype=dtype, shape=shape)
        with open(place, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(place))
            except OSError as error:
                size = os.path.getsize(place) / 2**30
                _drop_partial(folder)
                raise RuntimeError(
                    f"no room for a memory map of {size:.3g} GiB in {os.path.dirname(folder)} ({error.strerror}); "
                    "set RDD_MAP_DIR to a larger disk; training can also do without, by features.held stream"
                ) from error
        return matrix

    return allocate


def _write_arrow(path: str, columns: dict[str, Any]) -> None:
    """Columns as one batch of Arrow, which can be mapped as it is."""
    batch = pa.record_batch(columns)
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def _read_arrow(path: str) -> pa.RecordBatch:
    """The one batch of a file, in the memory of its map."""
    return pa.ipc.open_file(pa.memory_map(path)).get_batch(0)


def _lacking(folder: str, names: list[str], on_progress: OnProgress) -> list[str]:
    """The files of a map that are missing or have other checksums than were noted when they were written."""
    noted, lacking = _noted(folder), []
    for name in names:
        if name not in noted:
            lacking.append(name)
        elif not _is_whole(folder, name, noted[name], on_progress):
            logger.warning("%s in the memory map in %s is not what was written; writing it again", name, folder)
            lacking.append(name)
    return lacking


def _is_whole(folder: str, name: str, noted: Any, on_progress: OnProgress) -> bool:
    try:
        if noted["seen"] == _seen(folder, name):
            return True
        on_progress(_CHECKING)
        if noted["sha256"] != sha256_file_in_parts(os.path.join(folder, name)):
            return False
    except (OSError, KeyError, TypeError):  # missing, or noted in another form
        return False
    _note_checksum(folder, name, noted["sha256"])
    return True


def _noted(folder: str) -> dict[str, Any]:
    """By file of a map: its checksum, and when it was verified."""
    try:
        with open(os.path.join(folder, _CHECKSUMS_FILE)) as file:
            noted = json.load(file)
    except (OSError, ValueError):  # missing or torn
        return {}
    return noted if isinstance(noted, dict) else {}


def _note_checksum(folder: str, name: str, sha256: str) -> None:
    noted = _noted(folder) | {name: {"sha256": sha256, "seen": _seen(folder, name)}}
    storage.write_json(os.path.join(folder, _CHECKSUMS_FILE), noted)


def _seen(folder: str, name: str) -> list[Any]:
    """Which start of the machine this is, and of a file what changes when it is written to."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        start = file.read().strip()
    now = os.stat(os.path.join(folder, name))
    return [start, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns]


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
