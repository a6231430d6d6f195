"""Feature Parquet to arrays: into this process's memory, or into one memory map per node that its processes share."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from rdd import storage
from rdd.features.columns import TEXT, Layout, shape_of
from rdd.features.index import READ_THREADS, FileIndex, opened, read_index
from rdd.features.values import lengths_of, not_finite, values_of

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


def in_memory(name: str, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """An array in this process's own memory: the default for :data:`Allocate`."""
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
    files: list[str], layout: Layout, allocate: Allocate = in_memory, *, on_progress: OnProgress = ignored
) -> Columns:
    """The columns of a layout out of all files, end to end."""
    index = read_index(files, layout)
    images, records = int(index.first_image[-1]), int(index.first_record[-1])
    matrices = allocated(layout, images=images, records=records, allocate=allocate)
    copy_columns(index, layout, matrices, on_progress=on_progress)
    return Columns(matrices, index)


def allocated(layout: Layout, *, images: int, records: int, allocate: Allocate = in_memory) -> dict[str, np.ndarray]:
    """The matrices of a layout, their values still open."""
    shapes = {name: shape_of(columns, name, images=images, records=records) for name, columns in layout.items()}
    return {name: allocate(name, shape, layout[name][0].dtype) for name, shape in shapes.items()}


def copy_columns(
    index: FileIndex,
    layout: Layout,
    matrices: Mapping[str, np.ndarray],
    *,
    rows: Mapping[str, np.ndarray] | None = None,
    on_progress: OnProgress = ignored,
) -> None:
    """Copy the columns of files to their places in matrices, each file by a thread.

    Args:
        index: of the files.
        layout: the columns that are wanted.
        matrices: by name, where they go.
        rows: by name, ``(n,)`` row of the matrix for each image of the files, under ``text`` for each record, -1 where it has
            none; by default they lie end to end.
        on_progress: told of each file.

    Raises:
        RuntimeError: a file can not be read, or a record has other bytes than its images need, or NaN or infinity.
    """

    def fill(number: int) -> None:
        first = int(index.first_record[number])
        of_file = slice(first, int(index.first_record[number + 1]))
        for name, columns in layout.items():
            firsts = index.first_record if name == TEXT else index.first_image
            vectors = np.ones_like(index.images_of[of_file]) if name == TEXT else index.images_of[of_file]
            begin, end = int(firsts[number]), int(firsts[number + 1])
            for column, matrix in zip(columns, np.split(matrices[name], len(columns)), strict=True):
                target = matrix[begin:end] if rows is None else np.empty((end - begin, column.width), column.dtype)
                flaw = _copy_column(index.files[number], column.stored, target, vectors)
                if flaw is not None:
                    what, record = flaw
                    record_id = index.record_ids[first + record].as_py()
                    raise RuntimeError(
                        f"{index.files[number]} holds {what} in {column.stored} of the record {record_id!r}; embed again"
                    )
                if rows is not None:
                    places = rows[name][begin:end]
                    matrix[places[places >= 0]] = target[places >= 0]

    with ThreadPoolExecutor(READ_THREADS) as pool:
        for number, _ in enumerate(pool.map(fill, range(len(index.files)))):
            on_progress(f"{number + 1} of {len(index.files)} files of features")


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
    ends, vector_bytes = np.cumsum(vectors) * target.shape[1], target.shape[1] * target.dtype.itemsize
    at_a_time = max(1, _BYTES_AT_A_TIME // vector_bytes)
    with opened(path) as file:
        for batch in file.iter_batches(at_a_time, columns=[name], use_threads=False):
            column = batch.column(0)
            column = column.drop_null() if column.null_count else column  # which copies
            expected = vectors[done : done + len(column)] * vector_bytes
            lengths = lengths_of(column)
            if len(lengths) != len(expected):
                raise RuntimeError(f"{path} holds more {name} than records; embed again")
            if (wrong := lengths != expected).any():
                place = int(wrong.argmax())
                return f"{lengths[place]} bytes instead of {expected[place]}", done + place
            values = values_of(column, target.dtype)
            flat[start : start + len(values)] = values
            if flaw is None and (bad := not_finite(values)).any():
                flaw = "NaN or infinity", int(np.searchsorted(ends, start + int(bad.argmax()), side="right"))
            start, done = start + len(values), done + len(column)
    if done != len(vectors):
        raise RuntimeError(f"{path} holds {name} of {done} of its {len(vectors)} records; embed again")
    return flaw
