"""What a feature set knows of its images besides their features: of each its file, of each record its captions.

D3 has 11.5 million images, so of a large set a share of the records is drawn by a hash of their ids.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rdd import storage
from rdd.feature_names import TEXTS
from rdd.features.files import feature_files
from rdd.features.index import READ_THREADS, python_strings
from rdd.hashing import hash_strings
from rdd.schema import FILE_FACTS, REAL

OF_RECORDS = ("caption_original", "caption_positive", *TEXTS)
_LISTS = {"generators": "generator", "caption_cosines": "caption_cosine"} | FILE_FACTS
"""By column of a file of features, what it holds of each image."""
_WAY_OUT = "if it is damaged, embed again"


@dataclass(frozen=True)
class ImageFacts:
    """Images in the order of their record ids."""

    record_ids: pa.StringArray
    """``(R,)``, ascending."""
    record_of: np.ndarray
    """``(N,)`` int64: position of each image's record in ``record_ids``."""
    labels: np.ndarray
    """``(N,)`` uint8: 0 real, 1 generated."""
    facts: pa.Table
    """``(N,)`` rows: ``generator``, and what was asked for under its name in :class:`rdd.data.file_facts.FileFacts`; null where
    it is not known, as in sets of an earlier version."""
    captions: pa.Table
    """``(R,)`` rows: ``caption_original`` and ``caption_positive``, and CLIP's features of both, ``text_original`` and
    ``text_positive``, as they are stored; those that were asked for, null where there is none."""

    def __len__(self) -> int:
        """Images."""
        return len(self.record_of)


def read_facts(paths: Sequence[str], columns: Iterable[str], *, share: float = 1.0, seed: int = 0) -> ImageFacts:
    """Read some of what is known of the images of a feature set.

    Args:
        paths: its directories. An image that stands in several, with the same file, is counted once.
        columns: of ``schema.features_schema``: lists of one value an image, and captions.
        share: of the records in (0, 1] that are read, drawn by a hash of their ids.
        seed: of that hash.

    Raises:
        RuntimeError: a file can not be read, or knows more or fewer files than images of a record.
    """
    wanted = list(dict.fromkeys(["record_id", "generators", "content_hashes", *columns]))
    files = [file for path in paths for file in feature_files(path)]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        read = list(pool.map(lambda path: _read_file(path, wanted, share, seed), files))
    records = pa.concat_tables(read, promote_options="default").combine_chunks()  # a column that a file lacks has no type there
    given = records["record_id"].combine_chunks().cast(pa.string())
    ids = given.unique()
    ids = ids.take(pc.sort_indices(ids))
    record_of_row = np.asarray(pc.index_in(given, value_set=ids)).astype(np.int64)
    _, first_rows = np.unique(record_of_row, return_index=True)
    images, row_of = _by_image(records)
    order = np.argsort(record_of_row[row_of], kind="stable")
    if len(paths) > 1:
        order = order[_first_of_each(record_of_row[row_of][order], images.take(pa.array(order)))]
    facts = images.take(pa.array(order))
    return ImageFacts(
        record_ids=ids,
        record_of=record_of_row[row_of][order],
        labels=np.asarray(pc.not_equal(facts["generator"].cast(pa.string()), REAL)).astype(np.uint8),
        facts=facts,
        captions=records.select([name for name in OF_RECORDS if name in wanted]).take(pa.array(first_rows)),
    )


def _read_file(path: str, wanted: Sequence[str], share: float, seed: int) -> pa.Table:
    """The records of a file that are drawn; a column that it lacks is null."""
    optional = set(wanted) - {"record_id", "generators"}
    table = storage.read_table(path, [*wanted, "reason"], optional=optional, way_out=_WAY_OUT)
    table = table.filter(pc.is_null(table["reason"])).combine_chunks()
    if share < 1:
        ids = table["record_id"].combine_chunks()
        table = table.filter(pa.array(hash_strings(python_strings(ids), seed=seed) < share * 2.0**64))
    counts = np.asarray(pc.list_value_length(table["generators"]))
    columns = {}
    for name in wanted:
        if name not in table.column_names:
            columns[name] = pa.nulls(table.num_rows)
            continue
        columns[name] = table[name]
        if name in _LISTS:
            there = np.asarray(pc.list_value_length(table[name]).fill_null(-1))
            if ((there != counts) & (there >= 0)).any():
                raise RuntimeError(f"{path} holds {name} of more or fewer images than there are; embed again")
    return pa.table(columns)


def _by_image(records: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """A row an image, and ``(N,)`` the row of its record."""
    counts = np.asarray(pc.list_value_length(records["generators"])).astype(np.int64)
    owner = np.repeat(np.arange(records.num_rows), counts)
    firsts = np.repeat(np.cumsum(counts) - counts, counts)
    within = np.arange(len(owner)) - firsts
    columns = {}
    for name in records.column_names:
        if name not in _LISTS:
            continue
        column = records[name].combine_chunks()
        if pa.types.is_null(column.type):
            columns[_LISTS[name]] = pa.nulls(len(owner))
            continue
        lengths = np.asarray(pc.list_value_length(column).fill_null(0)).astype(np.int64)
        starts = (np.cumsum(lengths) - lengths)[owner]
        rows = pa.array(starts + within, mask=lengths[owner] == 0)
        flat = pc.list_flatten(column)
        if pa.types.is_string(flat.type):
            flat = flat.dictionary_encode()  # a few names, millions of times
        columns[_LISTS[name]] = flat.take(rows)
    return pa.table(columns), owner


def _first_of_each(record_of: np.ndarray, images: pa.Table) -> np.ndarray:
    """``(N,)`` bool: the first image of each record, generator and file; one whose file is not known stands for itself."""
    hashes = images["content_hash"].combine_chunks()
    if pa.types.is_null(hashes.type):
        return np.ones(len(record_of), dtype=bool)
    generators = np.asarray(images["generator"].combine_chunks().dictionary_encode().indices)
    known = np.asarray(pc.is_valid(hashes))
    keys = np.stack([record_of.astype(np.uint64), generators.astype(np.uint64), np.asarray(hashes.fill_null(0))], axis=1)
    keep = ~known
    keep[np.flatnonzero(known)[np.unique(keys[known], axis=0, return_index=True)[1]]] = True
    return keep
