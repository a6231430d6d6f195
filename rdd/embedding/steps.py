"""The two steps between stored bytes and features, as plain functions of Arrow tables; Ray is not known here.

A record that fails carries its stage and reason to the end instead of its images, so that it is written, counted and
committed like any other.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from rdd.clip import ClipEncoder, Preprocessor
from rdd.config import ClipConfig
from rdd.data.decode import Picture, RejectedError, decode_image
from rdd.data.records import rejection
from rdd.schema import DECODED, FEATURE_DTYPE, FEATURES

Progress = Callable[[str, int], None]
"""Told the name of a step and how many records it has just done."""

_CARRIED = ("key", "source", "row", "record_id", "generators", "formats", "widths", "heights", "num_bytes")
_VERDICT = ("stage", "reason", "detail")


class RecordDecoder:
    """Decode and preprocess the images of records: ``schema.RAW`` to ``schema.DECODED``.

    Args:
        preprocessor: CLIP's transforms on pictures.
        max_pixels: largest image that is decoded.
        text: whether a record without its prompts is rejected.
        progress: told of each table.
    """

    def __init__(self, preprocessor: Preprocessor, *, max_pixels: int, text: bool, progress: Progress) -> None:
        self._preprocessor = preprocessor
        self._max_pixels = max_pixels
        self._text = text
        self._progress = progress

    def __call__(self, table: pa.Table) -> pa.Table:
        """Tables in, tables out, row by row."""
        rows = [row if row["reason"] else self._decode(row) for row in table.to_pylist()]
        self._progress("decode", len(rows))
        return pa.Table.from_pylist([{name: row.get(name) for name in DECODED.names} for row in rows], schema=DECODED)

    def _decode(self, row: dict[str, Any]) -> dict[str, Any]:
        missing = [name for name in ("text_original", "text_positive") if not row[name]]
        if self._text and missing:
            return row | rejection("decode", "missing_prompt", ", ".join(missing))
        pictures, pixels = [], []
        for generator, data in zip(row["generators"], row["images"], strict=True):
            try:
                picture = decode_image(data, max_pixels=self._max_pixels)
                pixels.append(_resized(self._preprocessor, picture))
            except RejectedError as error:
                return row | rejection("decode", error.reason, f"image of {generator}: {error.detail}")
            pictures.append(picture)
        return row | {
            "pixels": pixels,
            "formats": [picture.format for picture in pictures],
            "widths": [picture.width for picture in pictures],
            "heights": [picture.height for picture in pictures],
            "num_bytes": [picture.num_bytes for picture in pictures],
        }


def _resized(preprocessor: Preprocessor, picture: Picture) -> bytes:
    try:
        return preprocessor.pixels(picture.image).tobytes()
    except Exception as error:  # a mode that Pillow opens and can not resize, say
        raise RejectedError("undecodable", f"{picture.image.mode} of {picture.format}: {error}") from error


class RecordEncoder:
    """Encode decoded records: ``schema.DECODED`` to ``schema.FEATURES``.

    Args:
        config: the encoder.
        text: whether prompts are encoded.
        threads: torch threads on a CPU; Ray would leave a worker one.
        progress: told of each batch.
    """

    def __init__(self, config: ClipConfig, *, text: bool, threads: int, progress: Progress) -> None:
        torch.set_num_threads(threads)
        self._encoder = ClipEncoder.from_config(config)
        self._batch_size = config.batch_size
        self._text = text
        self._progress = progress

    def __call__(self, table: pa.Table) -> pa.Table:
        """Tables in, tables out, row by row."""
        rows = table.to_pylist()
        usable = [row for row in rows if not row["reason"]]
        for row, features in zip(usable, self._encode_images(usable), strict=True):
            _keep(row, "image_features", features)
        if self._text and usable:
            self._encode_prompts(usable)
        self._progress("encode", len(rows) - len(usable))
        kept = [_kept(row) for row in rows]
        return pa.Table.from_pylist(kept, schema=FEATURES)

    def _encode_images(self, rows: list[dict[str, Any]]) -> list[np.ndarray]:
        """Features of each record, (k, D) float16; whole batches, whatever the records' borders."""
        flat = [pixels for row in rows for pixels in row["pixels"]]
        size = self._encoder.preprocessor.config["size"]
        height, width = (size, size) if isinstance(size, int) else size
        found = np.empty((len(flat), self._encoder.identity.embed_dim), dtype=FEATURE_DTYPE)
        ends = np.cumsum([len(row["pixels"]) for row in rows], dtype=np.int64)
        for start in range(0, len(flat), self._batch_size):
            stop = min(start + self._batch_size, len(flat))
            pixels = np.frombuffer(bytearray(b"".join(flat[start:stop])), dtype=np.uint8).reshape(-1, height, width, 3)
            features = self._encoder.encode_images(torch.from_numpy(pixels), batch_size=self._batch_size)
            found[start:stop] = _narrow(features)
            self._progress("encode", int(((ends > start) & (ends <= stop)).sum()))
        return np.split(found, ends[:-1]) if rows else []

    def _encode_prompts(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["prompts_cut"] = 0
        for name in ("text_original", "text_positive"):
            features, cut = self._encoder.encode_texts([row[name] for row in rows])
            for row, feature, was_cut in zip(rows, _narrow(features), cut.tolist(), strict=True):
                _keep(row, f"{name}_features", feature)
                row["prompts_cut"] += int(was_cut)


def _narrow(features: torch.Tensor) -> np.ndarray:
    with np.errstate(over="ignore"):  # beyond float16 is infinite, which rejects the record
        return features.numpy().astype(FEATURE_DTYPE)


def _keep(row: dict[str, Any], name: str, features: np.ndarray) -> None:
    if np.isfinite(features).all():
        row[name] = features.tobytes()
    else:
        row |= rejection("encode", "not_finite", f"{name}: a value is infinite or NaN in float16")


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    """The row as it is written: a rejected one keeps its place and its reason alone."""
    if row["reason"]:
        return {name: row[name] for name in ("key", "source", "row", "record_id", *_VERDICT)}
    return {name: row[name] for name in _CARRIED} | {
        "image_features": row["image_features"],
        "text_original": row.get("text_original_features"),
        "text_positive": row.get("text_positive_features"),
        "prompts_cut": row.get("prompts_cut", 0),
    }
