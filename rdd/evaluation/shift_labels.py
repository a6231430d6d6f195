"""A few labels of a new domain: a CSV or Parquet file whose rows name images of the set that is evaluated."""

import csv
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdd import storage
from rdd.evaluation.scores import Scored

_NEEDED, _OPTIONAL = ("record_id", "label"), "generator"


def labelled_images(path: str, scored: Scored, record_ids: Iterable[str]) -> np.ndarray:
    """The images that a file of labels names.

    A row is ``record_id``, ``label`` (0 real, 1 generated) and, if the file has that column and the row a value, ``generator``,
    as in ``logits.parquet``. Without a generator it stands for every image of the record that is of its class.

    Args:
        path: the file, local or on S3, whose name ends in ``.csv`` or ``.parquet``.
        scored: the images of the set.
        record_ids: ``(N,)`` id of each image's record.

    Returns:
        ``(N,)`` bool.

    Raises:
        ValueError: the file can not be read or lacks a column, a row names no image of the set or has another label than the
            set's own, or the labels are of one class.
    """
    rows, chosen = _rows(path), np.zeros(len(scored.logits), dtype=bool)
    wanted = {row["record_id"] for row in rows}
    images_of: dict[str, list[int]] = {}
    for image, record_id in enumerate(record_ids):
        if record_id in wanted:
            images_of.setdefault(record_id, []).append(image)
    for number, row in enumerate(rows, start=1):
        chosen[_images_of_row(f"{path}, row {number}", row, images_of.get(row["record_id"], []), scored)] = True
    counts = [int((chosen & (scored.labels == label)).sum()) for label in (0, 1)]
    if 0 in counts:
        raise ValueError(
            f"{path} must hold labels of both classes, since those of one class alone would push the shift without end, "
            f"got {counts[0]} real and {counts[1]} generated images; label some of the other class"
        )
    return chosen


def _images_of_row(where: str, row: dict[str, Any], images: list[int], scored: Scored) -> list[int]:
    record_id, generator, label = row["record_id"], row.get(_OPTIONAL), row["label"]
    if not images:
        raise ValueError(f"{where} must name a record of the images that are evaluated, got {record_id!r}")
    if generator:
        images = [image for image in images if scored.generators[scored.generator_of[image]] == generator]
        if not images:
            raise ValueError(f"{where} must name a generator of the record {record_id!r}, got {generator!r}")
    of_label = [image for image in images if scored.labels[image] == label]
    if not of_label:
        raise ValueError(f"{where} must have the label of the set itself for {record_id!r}, {1 - label}, got {label}")
    return of_label


def _rows(path: str) -> list[dict[str, Any]]:
    """The rows, each with a text under ``record_id`` and 0 or 1 under ``label``."""
    if not storage.exists(path):
        raise ValueError(f"evaluate.shift_labels must name a file of labels, and there is none at {path}")
    if not path.endswith((".csv", ".parquet")):
        raise ValueError(f"evaluate.shift_labels must end in .csv or .parquet, got {path}")
    try:
        names, rows = _read(path)
    except (pa.ArrowException, OSError, ValueError, csv.Error) as error:  # no Parquet, no UTF-8, no CSV
        raise ValueError(f"{path} can not be read: {' '.join(str(error).split())}") from error
    if missing := [name for name in _NEEDED if name not in names]:
        raise ValueError(f"{path} lacks the column(s) {', '.join(missing)}; it has {', '.join(names) or 'none'}")
    for number, row in enumerate(rows, start=1):
        if row["label"] not in (0, 1, "0", "1"):
            raise ValueError(f"{path}, row {number} must have the label 0 (real) or 1 (generated), got {row['label']!r}")
        row |= {"label": int(row["label"]), "record_id": str(row["record_id"])}
    return rows


def _read(path: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the columns and the rows."""
    data = storage.read_bytes(path)
    if path.endswith(".csv"):
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        rows = list(reader)
        return list(reader.fieldnames or ()), rows
    table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
    kept = [name for name in (*_NEEDED, _OPTIONAL) if name in table.column_names]
    return table.column_names, table.select(kept).to_pylist()
