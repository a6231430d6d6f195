"""Feature Parquet to arrays: into this process's memory, or into one memory map per node that its processes share."""

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rdd import storage
from rdd.schema import FEATURE_DTYPE

logger = logging.getLogger(__name__)

_READ_THREADS = 8


@dataclass(frozen=True)
class Columns:
    """The columns of the files, end to end."""

    image_features: np.ndarray
    text_original: np.ndarray | None
    text_positive: np.ndarray | None
    record_ids: tuple[str, ...]
    generators: pa.ListArray


Allocate = Callable[[tuple[int, int], str], np.ndarray]
"""Makes the float16 array of a shape for a column."""


def _in_memory(shape: tuple[int, int], name: str) -> np.ndarray:
    del name
    return np.empty(shape, dtype=FEATURE_DTYPE)


def read_columns(path: str, manifest: dict[str, Any], allocate: Allocate = _in_memory) -> Columns:
    """All files, each read and copied to its place by a thread."""
    files = [file.path for file in storage.list_files(storage.join(path, "data"), suffix=".parquet")]
    if not files:
        raise RuntimeError(f"{path} holds a manifest and no Parquet file; embed again")
    width, names = manifest["embed_dim"], _names(manifest)
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        ids_and_generators = list(pool.map(_read_ids, files))
        records = np.cumsum([0] + [ids.num_rows for ids in ids_and_generators])
        images = np.cumsum([0] + [len(pc.list_flatten(ids["generators"])) for ids in ids_and_generators])
        rows_of = {name: int(images[-1] if name == "image_features" else records[-1]) for name in names}
        arrays = {name: allocate((rows, width), name) for name, rows in rows_of.items()}

        def fill(number: int) -> None:
            starts = {name: images if name == "image_features" else records for name in arrays}
            table = _read_parquet(files[number], list(arrays))
            for name, array in arrays.items():
                first, last = starts[name][number], starts[name][number + 1]
                _copy_binary(table[name], array[first:last], files[number])

        list(pool.map(fill, range(len(files))))
    ids = pa.concat_tables(ids_and_generators).combine_chunks()
    return _columns(arrays, ids)


def _columns(arrays: dict[str, np.ndarray], ids: pa.Table) -> Columns:
    return Columns(
        image_features=arrays["image_features"],
        text_original=arrays.get("text_original"),
        text_positive=arrays.get("text_positive"),
        record_ids=tuple(ids["record_id"].to_pylist()),
        generators=pa.concat_arrays(ids["generators"].chunks),
    )


def _names(manifest: dict[str, Any]) -> list[str]:
    return ["image_features", *(["text_original", "text_positive"] if manifest["text"] else [])]


def _read_ids(path: str) -> pa.Table:
    table = _read_parquet(path, ["record_id", "generators", "reason"])
    return table.filter(pc.is_null(table["reason"])).select(["record_id", "generators"])


def _read_parquet(path: str, columns: list[str]) -> pa.Table:
    fs, inner = storage.filesystem(path)
    with fs.open_input_file(inner) as file:
        return pq.ParquetFile(file).read(columns=columns, use_threads=False)


def _copy_binary(column: pa.ChunkedArray, target: np.ndarray, path: str) -> None:
    """Lay the values of a binary column end to end; a rejected row is null and takes no place."""
    flat, start = target.reshape(-1), 0
    for chunk in column.chunks:
        offsets = np.frombuffer(chunk.buffers()[1], dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        if not len(offsets) or offsets[-1] == offsets[0]:
            continue
        values = np.frombuffer(chunk.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]].view(FEATURE_DTYPE)
        flat[start : start + len(values)] = values
        start += len(values)
    if start != len(flat):
        raise RuntimeError(f"{path} holds {start} feature values where {len(flat)} were expected; embed again")


def read_shared_columns(path: str, manifest: dict[str, Any], folder: str) -> Columns:
    """One memory map per node: whoever comes first writes it, and the others wait for the lock."""
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with _exclusive(f"{folder}.lock"):
        if not os.path.exists(folder):
            _write_map(path, manifest, folder)
    ids = _read_parquet(os.path.join(folder, "ids.parquet"), ["record_id", "generators"])
    maps = {name: np.load(os.path.join(folder, f"{name}.npy"), mmap_mode="r") for name in _names(manifest)}
    return _columns(maps, ids)


def _write_map(path: str, manifest: dict[str, Any], folder: str) -> None:
    """The columns as files of numpy, complete or not there."""
    beside = f"{folder}.partial"
    shutil.rmtree(beside, ignore_errors=True)
    os.makedirs(beside)
    logger.info("writing the memory map of %s to %s", path, folder)

    def allocate(shape: tuple[int, int], name: str) -> np.ndarray:
        place = os.path.join(beside, f"{name}.npy")
        return np.lib.format.open_memmap(place, mode="w+", dtype=FEATURE_DTYPE, shape=shape)

    columns = read_columns(path, manifest, allocate)
    pq.write_table(
        pa.table({"record_id": list(columns.record_ids), "generators": columns.generators}),
        os.path.join(beside, "ids.parquet"),
    )
    os.replace(beside, folder)


@contextlib.contextmanager
def _exclusive(path: str) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
