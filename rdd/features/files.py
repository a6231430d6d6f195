"""Feature Parquet to arrays: into this process's memory, or into one memory map per node that its processes share."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rdd import storage
from rdd.config import FeaturesConfig
from rdd.features.columns import TEXT, Layout, flaw_of_features, layout_of, shape_of
from rdd.features.index import READ_THREADS, FileIndex, opened, read_index
from rdd.hashing import sha256_bytes

_BYTES_AT_A_TIME = 2**18  # of one vector a record, some times as much of its images: copied on while it is in the cache


@dataclass(frozen=True)
class Columns:
    """The columns of the files, end to end."""

    matrices: dict[str, np.ndarray]
    """As the layout names them: of each input ``(M, width)`` of M images; under ``text`` ``(2 R, D)``, the original prompts of
    R records, then the positive ones."""
    index: FileIndex


OnProgress = Callable[[str], object]
"""Callback: gets a message such as ``3 of 20 files of features``; called after each file."""


def ignored(progress: str) -> None:
    """Do nothing: the default for :data:`OnProgress`."""


Allocate = Callable[[str, tuple[int, int], np.dtype], np.ndarray]
"""Makes the array of a name, a shape and a dtype."""


def _in_memory(name: str, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    return np.empty(shape, dtype=dtype)


def feature_files(path: str) -> list[str]:
    """The Parquet files of a feature directory.

    Raises:
        RuntimeError: there is none.
    """
    files = [file.path for file in storage.list_files(storage.join(path, "data"), suffix=".parquet")]
    if not files:
        raise RuntimeError(f"{path} holds a manifest and no Parquet file; embed again")
    return files


def read_columns(
    files: list[str], layout: Layout, allocate: Allocate = _in_memory, *, on_progress: OnProgress = ignored
) -> Columns:
    """The columns of a layout out of all files, each file read and copied to its place by a thread."""
    index = read_index(files, layout)
    images, records = int(index.first_image[-1]), int(index.first_record[-1])
    shapes = {name: shape_of(columns, name, images=images, records=records) for name, columns in layout.items()}
    matrices = {name: allocate(name, shape, layout[name][0].dtype) for name, shape in shapes.items()}

    def fill(number: int) -> None:
        first = int(index.first_record[number])
        of_file = slice(first, int(index.first_record[number + 1]))
        for name, columns in layout.items():
            firsts = index.first_record if name == TEXT else index.first_image
            vectors = np.ones_like(index.images_of[of_file]) if name == TEXT else index.images_of[of_file]
            for place, column in enumerate(columns):
                begin, end = (place * records + int(firsts[number + last]) for last in (0, 1))
                flaw = _copy_column(files[number], column.stored, matrices[name][begin:end], vectors)
                if flaw is not None:
                    what, record = flaw
                    record_id = index.record_ids[first + record].as_py()
                    raise RuntimeError(
                        f"{files[number]} holds {what} in {column.stored} of the record {record_id!r}; embed again"
                    )

    with ThreadPoolExecutor(READ_THREADS) as pool:
        for number, _ in enumerate(pool.map(fill, range(len(files)))):
            on_progress(f"{number + 1} of {len(files)} files of features")
    return Columns(matrices, index)


_EXPONENTS = {2: ("<u2", 0x7C00), 4: ("<u4", 0x7F800000)}
"""By size of a float: the integer to look at it, and its bits that are all set in infinity and NaN, and in no other value."""


def _copy_column(path: str, name: str, target: np.ndarray, vectors: np.ndarray) -> tuple[str, int] | None:
    """Lay the values of a binary column end to end, some rows at a time; a rejected row is null and takes no place.

    Args:
        path: the file.
        name: of the column.
        target: ``(n, width)`` of n vectors.
        vectors: ``(records,)`` how many of them each record has.

    Returns:
        What is wrong with the first record that is not as it must be, and which record; None where all are right.

    Raises:
        RuntimeError: there are more or fewer records.
    """
    flat, start, done, flaw = target.reshape(-1), 0, 0, None
    bits, exponent = _EXPONENTS[target.dtype.itemsize]
    ends, vector_bytes = np.cumsum(vectors) * target.shape[1], target.shape[1] * target.dtype.itemsize
    at_a_time = max(1, _BYTES_AT_A_TIME // vector_bytes)
    with opened(path) as file:
        for batch in file.iter_batches(at_a_time, columns=[name], use_threads=False):
            column = batch.column(0)
            column = column.drop_null() if column.null_count else column  # which copies
            expected = vectors[done : done + len(column)] * vector_bytes
            lengths = np.diff(_offsets(column))
            if len(lengths) != len(expected):
                raise RuntimeError(f"{path} holds more {name} than records; embed again")
            if (wrong := lengths != expected).any():
                place = int(wrong.argmax())
                return f"{lengths[place]} bytes instead of {expected[place]}", done + place
            values = _values(column, target.dtype)
            flat[start : start + len(values)] = values
            if flaw is None and (bad := (values.view(bits) & exponent) == exponent).any():
                flaw = "NaN or infinity", int(np.searchsorted(ends, start + int(bad.argmax()), side="right"))
            start, done = start + len(values), done + len(column)
    if done != len(vectors):
        raise RuntimeError(f"{path} holds {name} of {done} of its {len(vectors)} records; embed again")
    return flaw


def _offsets(column: pa.BinaryArray) -> np.ndarray:
    """``(n + 1,)``: where each value begins, and the last one ends."""
    return np.frombuffer(column.buffers()[1], dtype=np.int32)[column.offset : column.offset + len(column) + 1]


def _values(column: pa.BinaryArray, dtype: np.dtype) -> np.ndarray:
    """The values of a binary column without nulls, without a copy."""
    offsets = _offsets(column)
    if not len(offsets) or offsets[-1] == offsets[0]:
        return np.empty(0, dtype=dtype)
    return np.frombuffer(column.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]].view(dtype)


_IN_EVERY_IDENTITY = "rows.npy"
"""Hashed since the first version; without it all finished runs would take their features for other ones."""


def identity_of(path: str, manifest: dict[str, Any]) -> str:
    """SHA-256 of the manifest and of the names and sizes of the files; each embedding run has its own."""
    files = [(os.path.basename(file.path), file.size) for file in storage.list_files(storage.join(path, "data"))]
    return sha256_bytes(json.dumps([_IN_EVERY_IDENTITY, manifest, files]).encode())


def read_manifest(path: str) -> tuple[dict[str, Any], str]:
    """The manifest of a feature directory and its SHA-256.

    Raises:
        ValueError: there is no finished embedding at ``path``.
        RuntimeError: the manifest is torn, or a field of it is wrong.
    """
    place = storage.join(path, "manifest.json")
    if not storage.exists(place):
        raise ValueError(f"{path} holds no manifest.json, so no finished embedding; run jobs/embed.py to its end")
    data = storage.read_bytes(place)
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise RuntimeError(f"{place} is torn or no JSON ({' '.join(str(error).split())}); embed again") from error
    _check_manifest(place, manifest)
    return manifest, sha256_bytes(data)


_KINDS: dict[str, type] = {"encoder": dict, "embed_dim": int, "text": bool, "records_written": int, "images": int}


def _check_manifest(place: str, manifest: Any) -> None:
    """Refuse a manifest that lacks what readers use, or holds it in another form.

    Raises:
        RuntimeError: naming the file and the field.
    """
    if not isinstance(manifest, dict):
        raise RuntimeError(f"{place} must hold a mapping, got {type(manifest).__name__}; embed again")
    for name, kind in _KINDS.items():
        if type(manifest.get(name)) is not kind:
            raise RuntimeError(f"{place}: {name} must be of type {kind.__name__}, got {manifest.get(name)!r}; embed again")
    for name in ("embed_dim", "records_written", "images"):
        if manifest[name] < 1:
            raise RuntimeError(f"{place}: {name} must be at least 1, got {manifest[name]}; embed again")
    if (width := manifest["encoder"].get("embed_dim")) != manifest["embed_dim"]:
        raise RuntimeError(f"{place}: encoder.embed_dim must be embed_dim, {manifest['embed_dim']}, got {width!r}; embed again")
    if "features" in manifest:
        flaw = flaw_of_features(manifest["features"], text=manifest["text"])
    else:  # of the first layout
        dtype = manifest.get("dtype")
        flaw = None if dtype == "float16" else f"dtype must be float16, got {dtype!r}"
    if flaw is not None:
        raise RuntimeError(f"{place}: {flaw}; embed again")


def check_inputs(config: FeaturesConfig) -> None:
    """Refuse inputs that the feature set of a config does not hold, before any work.

    Raises:
        ValueError: there is no finished embedding, or it lacks an input; those that it holds are named.
        RuntimeError: the manifest is torn, or a field of it is wrong.
    """
    layout_of(config.path, read_manifest(config.path)[0], config.inputs, text=False)
