"""One memory map of the features per node, which all its processes share."""

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdd.features.files import MAP_FILE, Columns, OnProgress, feature_files, identity_of, ignored, read_columns, read_parquet
from rdd.schema import FEATURE_DTYPE

logger = logging.getLogger(__name__)

_WAIT_S = 0.2


def map_folder() -> str:
    """Where a node keeps its memory maps of features, for all processes of this user."""
    return os.environ.get("RDD_MAP_DIR") or os.path.join(tempfile.gettempdir(), f"rdd-features-{os.getuid()}")


def read_shared_columns(path: str, manifest: dict[str, Any], shared: str, on_progress: OnProgress = ignored) -> Columns:
    """One memory map per node, below ``shared``: whoever comes first writes it, and the others wait for the lock.

    Args:
        path: directory of the features.
        manifest: of the features.
        shared: folder of the memory maps.
        on_progress: gets how far the writing of the map is, also while another process writes it.
    """
    folder = map_of(path, manifest, shared)
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with _exclusive(f"{folder}.lock", on_progress) as note:
        if not os.path.exists(folder):
            _write_map(path, manifest, folder, note)
    ids = read_parquet(os.path.join(folder, "ids.parquet"), ["record_id", "generators"])
    rows = np.load(os.path.join(folder, MAP_FILE), mmap_mode="r")
    return Columns(rows, tuple(ids["record_id"].to_pylist()), pa.concat_arrays(ids["generators"].chunks))


def map_of(path: str, manifest: dict[str, Any], shared: str) -> str:
    """Folder of the memory map of some features, whether it is there or not."""
    return os.path.join(shared, identity_of(path, manifest))


def _write_map(path: str, manifest: dict[str, Any], folder: str, on_progress: OnProgress) -> None:
    """The columns as files of numpy, complete or not there."""
    beside = f"{folder}.partial"
    shutil.rmtree(beside, ignore_errors=True)
    os.makedirs(beside)
    logger.info("writing the memory map of %s to %s", path, folder)

    def allocate(shape: tuple[int, int]) -> np.ndarray:
        place = os.path.join(beside, MAP_FILE)
        rows = np.lib.format.open_memmap(place, mode="w+", dtype=FEATURE_DTYPE, shape=shape)
        with open(place, "r+b") as file:  # reserve the space: writing to a sparse map on a full disk kills the process (SIGBUS)
            try:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(place))
            except OSError as error:
                size = os.path.getsize(place) / 2**30
                raise RuntimeError(
                    f"no room for a memory map of {size:.3g} GiB in {os.path.dirname(folder)} ({error.strerror}); "
                    "set RDD_MAP_DIR to a larger disk, or features.held to stream"
                ) from error
        return rows

    columns = read_columns(feature_files(path), manifest, allocate, on_progress=on_progress)
    pq.write_table(
        pa.table({"record_id": list(columns.record_ids), "generators": columns.generators}),
        os.path.join(beside, "ids.parquet"),
    )
    os.replace(beside, folder)


@contextlib.contextmanager
def _exclusive(path: str, on_progress: OnProgress) -> Iterator[OnProgress]:
    """Hold a lock file, and yield the callback for the holder's progress, which writes it into that file.

    Processes that wait for the lock read the file and report that progress as theirs, so that none of them seems stalled.
    """
    with open(path, "a+") as file:
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

        yield note
