"""From pixels and tokens to features: a plain function of Arrow tables, in the process that holds the encoder.

Nothing here is done image by image in Python: what a GPU computes in a millisecond, a loop over its images would take longer to
hand over. Columns that the encoder does not change are passed on as they are.
"""

import contextlib
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from rdd.config import ClipConfig
from rdd.embedding.caption_cosine import caption_cosines
from rdd.embedding.decoder import Progress
from rdd.embedding.stored import Rounding, as_float16, features_of_views
from rdd.feature_names import PROJECTED, TEXT_ORIGINAL, TEXTS, view_name
from rdd.preprocessing import Preprocessor
from rdd.resource_use import BusyClock
from rdd.schema import features_schema

_TOKENS = dict(zip(TEXTS, ("tokens_original", "tokens_positive"), strict=True))
_KEPT = ("key", "source", "row", "record_id", "stage", "reason", "detail")
"""What a rejected record keeps."""


class Launched(Protocol):
    """Features that a device may still be computing."""

    def features(self) -> dict[str, torch.Tensor]:
        """Of each name ``(N, width)`` float32 on the CPU, once they are there."""


class Encoder(Protocol):
    """What is needed of :class:`rdd.clip.ClipEncoder`."""

    preprocessor: Preprocessor

    def staged(self, pixels: np.ndarray) -> torch.Tensor:
        """Images ``(N, height, width, 3)`` uint8 where the device can fetch them."""

    def launch(self, pixels: torch.Tensor, names: Sequence[str]) -> Launched:
        """Start one forward pass of the image tower."""

    def launch_tokens(self, tokens: torch.Tensor, name: str) -> Launched:
        """Start one forward pass of the text tower."""


class RecordEncoder:
    """Encode decoded records: ``schema.decoded_schema`` to ``schema.features_schema``.

    Two threads may call it, so that a GPU always has work.

    Args:
        encoder: which.
        config: what is kept of it, and images in a forward pass.
        text: whether prompts are encoded.
        views: of each image, which are encoded in forward passes of their own, so that each is as it would be alone.
        progress: told of each table.
    """

    def __init__(self, encoder: Encoder, config: ClipConfig, *, text: bool, views: int = 0, progress: Progress) -> None:
        self._encoder = encoder
        self._batch_size, self._features = config.batch_size, config.features
        self._views = range(1 + views)
        self._names = features_of_views(config.features, views)
        self._schema = features_schema(self._names)
        wide = features_of_views(config.float32, views)
        self._rounding = Rounding({name: name in wide for name in self._names})
        self._text = text
        self._progress = progress
        self._launching, self._rounding_off = threading.Lock(), threading.Lock()
        self.clock = BusyClock()
        """Measures the time with a forward pass under way."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Tables in, tables out, row by row."""
        table = table.combine_chunks()
        usable = np.asarray(pc.is_null(table["reason"]))
        images = np.where(usable, np.asarray(pc.list_value_length(table["generators"]).fill_null(0)), 0)
        pixels = [self._staged(table[view_name("pixels", view)], int(images.sum())) for view in self._views]
        tokens = {name: _tokens(table[column]) for name, column in _TOKENS.items()} if self._text and usable.any() else {}
        with contextlib.ExitStack() as until_computed:
            with self._launching:  # one forward pass after the other; what follows runs beside the next table's
                until_computed.enter_context(self.clock.at_work())
                passes = [
                    [self._encoder.launch(batch, self._features) for batch in self._batches(of_view)] for of_view in pixels
                ]
                texts = [self._encoder.launch_tokens(rows, name) for name, rows in tokens.items()]
            seen = [[done.features() for done in of_view] for of_view in passes]
            read = {name: values.numpy() for done in texts for name, values in done.features().items()}
        found = self._stored(seen) | {name: as_float16(values) for name, values in read.items()}
        vectors = dict.fromkeys(self._names, images) | dict.fromkeys(tokens, usable.astype(np.int64))
        columns = {name: _binary(values, vectors[name]) for name, values in found.items()}
        if seen[0] and TEXT_ORIGINAL in read and PROJECTED in self._features:
            projected = np.concatenate([done[PROJECTED].numpy() for done in seen[0]])
            columns["caption_cosines"] = _lists(caption_cosines(projected, read[TEXT_ORIGINAL], images[usable]), images)
        encoded = self._table(table, columns, self._flaws(found, vectors))
        self._progress("encode", table.num_rows)
        return encoded

    def _staged(self, column: pa.ChunkedArray, number: int) -> torch.Tensor:
        """All images of a column, ``(n, height, width, 3)`` uint8, where the device can fetch them; not copied on the way."""
        shape = (number, self._encoder.preprocessor.height, self._encoder.preprocessor.width, 3)
        if not number:
            return self._encoder.staged(np.empty(shape, dtype=np.uint8))
        flat = pc.list_flatten(column.combine_chunks())
        values = np.frombuffer(flat.buffers()[2], dtype=np.uint8)
        begin, end = (np.frombuffer(flat.buffers()[1], dtype=np.int32)[flat.offset + place] for place in (0, len(flat)))
        if len(flat) != number or end - begin != np.prod(shape):
            raise ValueError(f"{end - begin} bytes of {len(flat)} images instead of {np.prod(shape)} of {number}")
        return self._encoder.staged(values[begin:end].reshape(shape))

    def _batches(self, pixels: torch.Tensor) -> Sequence[torch.Tensor]:
        """Images of one forward pass each, as equal as can be; none where there is no image."""
        return pixels.tensor_split(-(-len(pixels) // self._batch_size)) if len(pixels) else ()

    def _stored(self, seen: list[list[dict[str, torch.Tensor]]]) -> dict[str, np.ndarray]:
        """By name ``(n, width)`` of all images, and of each view of them, as they are stored."""
        found = {}
        with self._rounding_off:  # it counts over all images
            for view, passes in enumerate(seen):
                for name in self._features if passes else ():
                    stored = view_name(name, view)
                    found[stored] = np.concatenate([self._rounding.stored(stored, done[name].numpy()) for done in passes])
        return found

    @staticmethod
    def _flaws(found: dict[str, np.ndarray], vectors: dict[str, np.ndarray]) -> dict[int, str]:
        """By number of a record why it is rejected: a value does not fit."""
        reasons: dict[int, str] = {}
        for name, values in found.items():
            finite = np.isfinite(values).all(axis=1)
            if not finite.all():
                record_of = np.repeat(np.arange(len(vectors[name])), vectors[name])
                reason = f"{name}: a value is infinite or NaN in {values.dtype}"
                reasons |= dict.fromkeys(record_of[~finite].tolist(), reason)
        return reasons

    def _table(self, table: pa.Table, columns: dict[str, pa.Array], reasons: dict[int, str]) -> pa.Table:
        """The records as they are written: what was found of them, and what they came with."""
        passed_on = set(table.column_names)
        arrays = [
            columns[field.name]
            if field.name in columns
            else table[field.name].cast(field.type)
            if field.name in passed_on
            else pa.nulls(table.num_rows, field.type)
            for field in self._schema
        ]
        encoded = pa.table(arrays, schema=self._schema)
        return _rejected(encoded, reasons) if reasons else encoded


def _tokens(column: pa.ChunkedArray) -> torch.Tensor:
    """``(records, L)`` int32 of the records that have any."""
    given = column.drop_null().to_pylist()
    return torch.from_numpy(np.frombuffer(bytearray(b"".join(given)), dtype="<i4").reshape(len(given), -1))


def _binary(values: np.ndarray, vectors: np.ndarray) -> pa.Array:
    """A binary column with the bytes of some vectors a record, null where a record has none."""
    offsets = np.concatenate([[0], np.cumsum(vectors)]) * (values.nbytes // max(1, len(values)))
    valid = pa.array(vectors > 0)
    buffers = [valid.buffers()[1], pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(pa.binary(), len(vectors), buffers)


def _lists(values: np.ndarray, images: np.ndarray) -> pa.Array:
    """A column with a value of each image, null where a record has none."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(images)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(values), mask=pa.array(images == 0))


def _rejected(encoded: pa.Table, reasons: dict[int, str]) -> pa.Table:
    """Some rows with a reason and nothing but their place."""
    rows = encoded.to_pylist()
    for number, detail in reasons.items():
        kept = {name: value for name, value in rows[number].items() if name in _KEPT}
        rows[number] = kept | {"stage": "encode", "reason": "not_finite", "detail": detail}
    return pa.Table.from_pylist(rows, schema=encoded.schema)
