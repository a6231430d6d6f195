"""From pixels and tokens to features: a plain function of Arrow tables, in the process that holds the encoder.

Nothing here is done image by image in Python: what a GPU computes in a millisecond, a loop over its images would take longer to
hand over. Columns that the encoder does not change are passed on as they are.
"""

import platform
import threading
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from rdd.clip import ClipEncoder, Launched
from rdd.config import ClipConfig
from rdd.embedding.decoder import Progress
from rdd.encoder_identity import EncoderIdentity
from rdd.schema import FEATURE_COLUMNS, FEATURE_DTYPE, FEATURES

_TEXTS = {"text_original": "tokens_original", "text_positive": "tokens_positive"}
_KEPT = ("key", "source", "row", "record_id", "stage", "reason", "detail")
"""What a rejected record keeps."""


class RecordEncoder:
    """Encode decoded records: ``schema.DECODED`` to ``schema.FEATURES``.

    Two threads may call it, so that a GPU always has work.

    Args:
        config: the encoder.
        text: whether prompts are encoded.
        threads: torch threads on a CPU; Ray would leave a worker one.
        expected: what the encoder must be.
        progress: told when the encoder is loaded (step ``load``), and of each table.

    Raises:
        RuntimeError: the encoder is another one here, such as other weights under the same name.
    """

    def __init__(self, config: ClipConfig, *, text: bool, threads: int, expected: EncoderIdentity, progress: Progress) -> None:
        torch.set_num_threads(threads)
        self._encoder = ClipEncoder.from_config(config)
        if self._encoder.identity != expected:
            raise RuntimeError(
                f"the encoder on {platform.node()} is {self._encoder.identity}, "
                f"and where the job began it is {expected}; put the same weights there"
            )
        self._batch_size = config.batch_size
        self._text = text
        self._progress = progress
        self._launching = threading.Lock()
        progress("load", 1)  # ends the time to start: from now on the stall limit applies

    def __call__(self, table: pa.Table) -> pa.Table:
        """Tables in, tables out, row by row."""
        table = table.combine_chunks()
        usable = np.asarray(pc.is_null(table["reason"]))
        images = np.where(usable, np.asarray(pc.list_value_length(table["generators"]).fill_null(0)), 0)
        pixels = self._staged(table, int(images.sum()))
        tokens = {name: _tokens(table[column]) for name, column in _TEXTS.items()} if self._text and usable.any() else {}
        with self._launching:  # one forward pass after the other; what follows runs beside the next table's
            launched = {
                "image_features": [self._encoder.launch(batch) for batch in pixels.split(self._batch_size) if len(batch)]
            }
            launched |= {name: [self._encoder.launch_tokens(rows)] for name, rows in tokens.items()}
        vectors = {"image_features": images} | {name: usable.astype(np.int64) for name in tokens}
        found = {name: _narrow(parts) for name, parts in launched.items()}
        encoded = self._table(table, found, vectors)
        self._progress("encode", table.num_rows)
        return encoded

    def _staged(self, table: pa.Table, number: int) -> torch.Tensor:
        """All images of a table, ``(n, height, width, 3)`` uint8, where the device can fetch them."""
        staged = self._encoder.new_pixels(number)
        if not number:
            return staged
        flat = pc.list_flatten(table["pixels"].combine_chunks())
        values = np.frombuffer(flat.buffers()[2], dtype=np.uint8)
        begin, end = (np.frombuffer(flat.buffers()[1], dtype=np.int32)[flat.offset + place] for place in (0, len(flat)))
        if len(flat) != number or end - begin != staged.nbytes:
            raise ValueError(f"{end - begin} bytes of {len(flat)} images instead of {staged.nbytes} of {number}")
        staged.numpy().reshape(-1)[:] = values[begin:end]
        return staged

    def _batches(self, pixels: torch.Tensor) -> Sequence[torch.Tensor]:
        """Images of one forward pass each, as equal as can be; none where there is no image."""
        return pixels.tensor_split(-(-len(pixels) // self._batch_size)) if len(pixels) else ()

    def _table(self, table: pa.Table, found: dict[str, np.ndarray], vectors: dict[str, np.ndarray]) -> pa.Table:
        """The records as they are written, rejected where a value does not fit."""
        reasons: dict[int, str] = {}
        for name, values in found.items():
            finite = np.isfinite(values).all(axis=1)
            if not finite.all():
                record_of = np.repeat(np.arange(table.num_rows), vectors[name])
                reasons |= dict.fromkeys(record_of[~finite].tolist(), f"{name}: a value is infinite or NaN in float16")
        columns = {name: table[name] for name in FEATURES.names if name not in FEATURE_COLUMNS}
        columns |= {name: _binary(values, vectors[name]) for name, values in found.items()}
        nothing = {name: pa.nulls(table.num_rows, pa.binary()) for name in FEATURE_COLUMNS}
        encoded = pa.table(nothing | columns).select(FEATURES.names).cast(FEATURES)
        return _rejected(encoded, reasons) if reasons else encoded


def _tokens(column: pa.ChunkedArray) -> torch.Tensor:
    """``(records, L)`` int32 of the records that have any."""
    given = column.drop_null().to_pylist()
    return torch.from_numpy(np.frombuffer(bytearray(b"".join(given)), dtype="<i4").reshape(len(given), -1))


def _narrow(parts: list[Launched]) -> np.ndarray:
    """``(n, D)`` float16, once they are computed; what float16 does not hold becomes infinite, which rejects the record."""
    if not parts:
        return np.empty((0, 0), dtype=FEATURE_DTYPE)
    with np.errstate(over="ignore"):
        return np.concatenate([part.features().numpy().astype(FEATURE_DTYPE) for part in parts])


def _binary(values: np.ndarray, vectors: np.ndarray) -> pa.Array:
    """A binary column with the bytes of some vectors a record, null where a record has none."""
    offsets = np.concatenate([[0], np.cumsum(vectors)]) * (values.nbytes // max(1, len(values)))
    valid = pa.array(vectors > 0)
    buffers = [valid.buffers()[1], pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(pa.binary(), len(vectors), buffers)


def _rejected(encoded: pa.Table, reasons: dict[int, str]) -> pa.Table:
    """Some rows with a reason and nothing but their place."""
    rows = encoded.to_pylist()
    for number, detail in reasons.items():
        kept = {name: value for name, value in rows[number].items() if name in _KEPT}
        rows[number] = kept | {"stage": "encode", "reason": "not_finite", "detail": detail}
    return pa.Table.from_pylist(rows, schema=FEATURES)
