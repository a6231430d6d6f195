"""The two steps of many answers as plain functions of Arrow tables: images prepared, and answers. No Ray; the first no torch.

An image that fails carries its reason to the end, so that it is written, counted and committed like any other.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rdd.data.records import RawRecord, from_table
from rdd.serving.answer import ContentCredentials, Reason, Unreadable
from rdd.serving.prepare import Prepared, Preparer
from rdd.serving.records import prepare_record
from rdd.serving.rows import ROWS, row_of

if TYPE_CHECKING:
    from rdd.serving.predictor import Predictor  # and with it torch

Progress = Callable[[str, int], None]
"""Callback: gets the name of a step and the number of images that it has just done."""

PREPARED = pa.schema(
    [
        ("key", pa.string()),
        ("name", pa.string()),
        ("sha256", pa.string()),
        ("pixels", pa.binary()),
        ("caption", pa.string()),
        ("about", pa.string()),
    ]
)
"""An image before the encoder: (height, width, 3) uint8, null where it could not be read, and in JSON what is known of it."""

KEYED_ROWS = pa.schema([("key", pa.string()), *ROWS])
"""An answer, and which image it is of: its absolute path, its address, or table and row."""


class PrepareStep:
    """Decodes images: ``schema.RAW`` to ``PREPARED``; picklable.

    Args:
        preparer: of the detector's encoder.
        progress: told of each table, as step ``decode``.
    """

    def __init__(self, preparer: Preparer, progress: Progress) -> None:
        self._preparer, self._progress = preparer, progress

    def __call__(self, table: pa.Table) -> pa.Table:
        """Tables in, tables out, row by row."""
        rows = []
        for record in from_table(table, RawRecord):
            prepared = prepare_record(record, self._preparer)
            caption = record.text_original if isinstance(record, RawRecord) else None
            rows.append({"key": record.place.key, "caption": caption} | _columns_of(prepared))
        self._progress("decode", len(rows))
        return pa.Table.from_pylist(rows, schema=PREPARED)


class AnswerStep:
    """Answers images: ``PREPARED`` to ``KEYED_ROWS``, one forward pass a table; two threads may call it.

    Args:
        predictor: with its encoder.
        progress: told of each table, as step ``encode``, and of images without a verdict, as ``reject``.
    """

    def __init__(self, predictor: "Predictor", progress: Progress) -> None:
        self._predictor, self._progress = predictor, progress

    def __call__(self, table: pa.Table) -> pa.Table:
        """Tables in, tables out."""
        preprocessor = self._predictor.preparer.preprocessor
        shape = (preprocessor.height, preprocessor.width, 3)
        images = [_prepared_of(row, shape) for row in table.to_pylist()]
        answers = self._predictor.answers(images, table["caption"].to_pylist())
        rows = [{"key": key} | row_of(answer) for key, answer in zip(table["key"].to_pylist(), answers, strict=True)]
        self._progress("encode", len(rows))
        self._progress("reject", sum(answer.error is not None for answer in answers))
        return pa.Table.from_pylist(rows, schema=KEYED_ROWS)


def _columns_of(prepared: Prepared) -> dict[str, Any]:
    about = {
        "reasons": [asdict(reason) for reason in prepared.reasons],
        "credentials": asdict(prepared.credentials),
        "error": None if prepared.error is None else asdict(prepared.error),
    }
    pixels = None if prepared.pixels is None else prepared.pixels.tobytes()
    return {"name": prepared.name, "sha256": prepared.sha256, "pixels": pixels, "about": json.dumps(about)}


def _prepared_of(row: dict[str, Any], shape: tuple[int, int, int]) -> Prepared:
    about = json.loads(row["about"])
    credentials = about["credentials"] | {"source_types": tuple(about["credentials"]["source_types"])}
    return Prepared(
        name=row["name"],
        sha256=row["sha256"],
        pixels=None if row["pixels"] is None else np.frombuffer(row["pixels"], dtype=np.uint8).reshape(shape),
        reasons=tuple(Reason(**reason) for reason in about["reasons"]),
        credentials=ContentCredentials(**credentials),
        error=None if about["error"] is None else Unreadable(**about["error"]),
    )
