"""Images that stand in a set as real and as generated, by their bytes: no detector could be right about both.

This is known only when every record is embedded. The rows of such records are then rejected in the committed files, one file
after the other; they keep their hashes, so that a run that is killed in between finds the same conflicts when it goes on.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rdd import storage
from rdd.embedding.resume import read_table
from rdd.feature_names import TEXTS, is_image_feature, split_view
from rdd.schema import LABEL_GENERATED, LABEL_REAL, label_of

logger = logging.getLogger(__name__)

REASON = "conflicting_label"


def conflicting_hashes(table: pa.Table) -> np.ndarray:
    """Hashes of the bytes of images that stand in the set under both labels.

    Args:
        table: ``generators`` and ``content_hashes`` of all records; of a rejected record they may be null.

    Returns:
        ``(n,)`` uint64, ascending.
    """
    hashes, labels = _images_of(table)
    return np.intersect1d(hashes[labels == LABEL_REAL], hashes[labels == LABEL_GENERATED])


def repeated_images(table: pa.Table) -> int:
    """Images of accepted records whose bytes stand in another accepted record as well: a split may part them.

    Args:
        table: ``content_hashes`` and ``reason`` of all records.
    """
    accepted = table.filter(pc.is_null(table["reason"]))["content_hashes"].combine_chunks()
    counts = np.asarray(pc.list_value_length(accepted).fill_null(0))
    record_of = np.repeat(np.arange(len(counts)), counts)
    hashes = pc.list_flatten(accepted).to_numpy(zero_copy_only=False)
    pairs = np.unique(np.stack([hashes, record_of.astype(np.uint64)]), axis=1)[0] if len(hashes) else hashes
    known, times = np.unique(pairs, return_counts=True)
    return int(np.isin(hashes, known[times > 1]).sum())


def reject_conflicting(tables: Mapping[str, pa.Table], hashes: np.ndarray, options: Mapping[str, Any]) -> None:
    """Reject, in the files, the accepted records that hold an image of one of these hashes; other files are not touched.

    Args:
        tables: by path of a committed data file, ``content_hashes`` and ``reason`` of its records.
        hashes: of :func:`conflicting_hashes`.
        options: of ``pyarrow.parquet.write_table``, with which the files were written.
    """
    for path, table in tables.items():
        holds = _holds(table, hashes)
        if not holds.any():
            continue
        logger.warning("%d records of %s hold an image that stands in the set as real and as generated", holds.sum(), path)
        rows = read_table(path)
        storage.write_table(path, _rejected(rows, holds).replace_schema_metadata(rows.schema.metadata), **options)


def _rejected(rows: pa.Table, which: np.ndarray) -> pa.Table:
    mask = pa.array(which)
    values = {"stage": "check", "reason": REASON, "detail": "its bytes stand in the set as real and as generated"}
    features = [name for name in rows.column_names if is_image_feature(split_view(name)[0]) or name in TEXTS]
    for name in (*features, *values):
        field = pa.field(name, pa.string() if name in values else pa.binary())
        chosen = pc.if_else(mask, pa.scalar(values.get(name), field.type), rows[name].cast(field.type))
        rows = rows.set_column(rows.schema.get_field_index(name), field, chosen)
    return rows


def _holds(table: pa.Table, hashes: np.ndarray) -> np.ndarray:
    """``(rows,)`` bool: accepted, and with an image of one of the hashes."""
    lists = table["content_hashes"].combine_chunks()
    counts = np.asarray(pc.list_value_length(lists).fill_null(0))
    found = np.isin(pc.list_flatten(lists).to_numpy(zero_copy_only=False), hashes)
    held = np.zeros(len(counts), dtype=bool)
    held[np.repeat(np.arange(len(counts)), counts)[found]] = True
    return held & np.asarray(pc.is_null(table["reason"]))


def _images_of(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Hash and label of each image whose bytes were read."""
    known = table.filter(pc.is_valid(table["content_hashes"]))
    hashes = pc.list_flatten(known["content_hashes"].combine_chunks()).to_numpy(zero_copy_only=False)
    names = pc.list_flatten(known["generators"].combine_chunks()).dictionary_encode()
    labels = np.array([label_of(name) for name in names.dictionary.to_pylist()], dtype=np.int64)
    return hashes, labels[np.asarray(names.indices)] if len(hashes) else np.empty(0, dtype=np.int64)
