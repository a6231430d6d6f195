"""Which records, images and generators a feature set holds: everything in its files but the features.

D3 has 2.3 million records of 11.5 million images, so nothing here is a Python object of each: ids stay strings of Arrow, and
images are rows of the narrowest integers.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rdd import storage
from rdd.features.columns import Layout
from rdd.schema import REAL, label_of

READ_THREADS = min(8, 2 * (os.cpu_count() or 1))
"""Files that are read side by side."""
_IDS_AT_A_TIME = 2**16


@dataclass(frozen=True)
class FileIndex:
    """Records and images in the order of the files."""

    files: tuple[str, ...]
    first_image: np.ndarray
    """``(files + 1,)`` images before each file."""
    first_record: np.ndarray
    """``(files + 1,)`` records before each file."""
    record_ids: pa.StringArray
    """``(R,)``."""
    images_of: np.ndarray
    """``(R,)`` int32: images of each record, which lie side by side."""
    generator_of: np.ndarray
    """``(M,)`` int16 (int32 beyond 32,767 names) of each image: position in ``generators``."""
    generators: tuple[str, ...]
    """Names, ``real`` first."""


@dataclass(frozen=True)
class ImageIndex:
    """Images in the order of their record ids, whatever the order of the files."""

    order: np.ndarray
    """``(M,)`` int32: row of each image in the order of the files."""
    record_of: np.ndarray
    """``(M,)`` int32: position of each image's record in ``record_ids``."""
    generator_of: np.ndarray
    """``(M,)``, as in :class:`FileIndex`, in this order."""
    generators: tuple[str, ...]
    record_ids: pa.StringArray
    """``(R,)``, in the order of the files."""


def read_index(files: list[str], layout: Layout) -> FileIndex:
    """Ids, images and generators of all files, and where each file begins.

    Args:
        files: their paths.
        layout: columns that the files must hold; they are read by :func:`rdd.features.files.read_columns`.

    Raises:
        RuntimeError: a column is absent or of another type; or an image or a record has no generator, so that its label would
            be a guess.
    """
    types = _TYPES | {column.stored: pa.binary() for columns in layout.values() for column in columns}
    with ThreadPoolExecutor(READ_THREADS) as pool:
        read = list(pool.map(lambda path: _read_file(path, types), files))
    generators = sorted({name for one in read for name in one.generators}, key=lambda name: (name != REAL, name))
    place = {name: number for number, name in enumerate(generators)}
    code = np.int16 if len(generators) < 2**15 else np.int32
    codes = [np.array([place[name] for name in one.generators], dtype=code)[one.generator_of] for one in read]
    return FileIndex(
        files=tuple(files),
        first_image=np.cumsum([0] + [len(one.generator_of) for one in read]),
        first_record=np.cumsum([0] + [len(one.record_ids) for one in read]),
        record_ids=pa.concat_arrays([one.record_ids for one in read]),
        images_of=np.concatenate([one.images_of for one in read]),
        generator_of=np.concatenate(codes),
        generators=tuple(generators),
    )


@dataclass(frozen=True)
class _OneFile:
    record_ids: pa.StringArray
    images_of: np.ndarray
    generator_of: np.ndarray
    generators: list[str]


def _read_file(path: str, types: Mapping[str, pa.DataType]) -> _OneFile:
    with opened(path) as parquet:
        _check_types(path, parquet.schema_arrow, types)
        table = parquet.read(columns=["record_id", "generators", "reason"], use_threads=False)
    table = table.filter(pc.is_null(table["reason"])).combine_chunks()
    ids, lists = (_one_array(table[name]) for name in ("record_id", "generators"))
    if ids.null_count:
        raise RuntimeError(f"{path} holds {ids.null_count} records without an id; embed again")
    names = pc.list_flatten(lists)
    bad = lists.null_count + names.null_count + int(pc.sum(pc.equal(pc.utf8_length(names), 0)).as_py() or 0)
    if bad:
        raise RuntimeError(f"{path} holds {bad} images or records without a generator's name; embed again")
    encoded = names.dictionary_encode()
    images_of = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int32)
    return _OneFile(ids, images_of, encoded.indices.to_numpy(), encoded.dictionary.to_pylist())


@contextlib.contextmanager
def opened(path: str) -> Iterator[pq.ParquetFile]:
    """A file of features, whose pages are read with their checksums verified.

    Raises:
        RuntimeError: what is read in it can not be read, or has changed since it was written; the file is named.
    """
    try:
        with storage.open_input(path) as file:
            yield pq.ParquetFile(file, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise RuntimeError(f"{path} can not be read ({said}); if it is damaged, embed again") from error


_TYPES = {"record_id": pa.string(), "generators": pa.list_(pa.string()), "reason": pa.string()}


def _check_types(path: str, schema: pa.Schema, types: Mapping[str, pa.DataType]) -> None:
    """Refuse a file whose columns are of other types, since features are read as bytes.

    Raises:
        RuntimeError: naming the column.
    """
    for name, expected in types.items():
        place = schema.get_field_index(name)
        there = "absent" if place < 0 else schema.field(place).type
        if there != expected:
            raise RuntimeError(f"{path}: the column {name} must be of type {expected}, got {there}; embed again")


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def check_counts(path: str, files: FileIndex, manifest: dict[str, Any]) -> None:
    """Refuse files that hold other numbers of records and images than their manifest says.

    Raises:
        RuntimeError: naming the directory.
    """
    records, images = len(files.record_ids), len(files.generator_of)
    for what, there, written in (("records", records, manifest["records_written"]), ("images", images, manifest["images"])):
        if there != written:
            raise RuntimeError(f"{path} holds {there} {what} and its manifest says {written}; embed again")
    check_rows(path, images=images, records=records)


def check_rows(path: str, *, images: int, records: int) -> None:
    """Refuse more images, or prompts of records, than rows are counted.

    Raises:
        RuntimeError: naming the directory, or several.
    """
    if images + 2 * records >= 2**31:
        raise RuntimeError(f"{path} holds {images} images of {records} records, more than rows of 32 bits can count; split it")


def index_images(path: str, files: FileIndex, manifest: dict[str, Any]) -> ImageIndex:
    """Images in the order of record ids.

    Args:
        path: of the features, for the errors.
        files: what its files hold.
        manifest: of the features.

    Raises:
        RuntimeError: the files are not what the manifest says.
    """
    check_counts(path, files, manifest)
    by_id = pc.sort_indices(files.record_ids).to_numpy().astype(np.int32)
    ids = files.record_ids.take(pa.array(by_id))
    if pc.any(pc.equal(ids[1:], ids[:-1])).as_py():
        raise RuntimeError(f"{path} holds record ids more than once; embed again")
    images, counts = len(files.generator_of), files.images_of[by_id]
    in_files = (np.cumsum(files.images_of) - files.images_of)[by_id]
    shift = (in_files - (np.cumsum(counts) - counts)).astype(np.int32)
    order = np.arange(images, dtype=np.int32) + np.repeat(shift, counts)
    return ImageIndex(order, np.repeat(by_id, counts), files.generator_of[order], files.generators, files.record_ids)


def labels_of(generator_of: np.ndarray, generators: tuple[str, ...]) -> np.ndarray:
    """``(M,)`` uint8 of images whose generators are given as positions: 0 real, 1 generated."""
    return np.array([label_of(name) for name in generators], dtype=np.uint8)[generator_of]


def python_strings(strings: pa.StringArray) -> Iterator[str]:
    """The strings of an Arrow array one by one, some thousands in memory at a time."""
    for start in range(0, len(strings), _IDS_AT_A_TIME):
        yield from strings.slice(start, _IDS_AT_A_TIME).to_pylist()
