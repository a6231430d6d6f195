"""The two steps between stored bytes and features, as plain functions of Arrow tables; Ray is not known here.

A record that fails carries its stage and reason to the end instead of its images, so that it is written, counted and
committed like any other.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch

from rdd.clip import ClipEncoder, Preprocessor
from rdd.config import ClipConfig
from rdd.data.decode import Picture, UnusableImageError, decode_image
from rdd.data.records import (
    DecodedRecord,
    EncodedRecord,
    RawRecord,
    RejectedRecord,
    from_table,
    reject,
    split_rejected,
    to_table,
)
from rdd.embedding.stored import Rounding, as_float16
from rdd.hashing import hash_bytes
from rdd.schema import DECODED, features_schema

Progress = Callable[[str, int], None]
"""Callback: gets the name of a step and the number of records that it has just done."""


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
        records = [
            record if isinstance(record, RejectedRecord) else self._decode(record) for record in from_table(table, RawRecord)
        ]
        self._progress("decode", len(records))
        return to_table(records, DECODED)

    def _decode(self, record: RawRecord) -> DecodedRecord | RejectedRecord:
        missing = [name for name in ("text_original", "text_positive") if not getattr(record, name)]
        if self._text and missing:
            return reject(record.place, "decode", "missing_prompt", ", ".join(missing))
        pictures, pixels = [], []
        for generator, data in zip(record.generators, record.images, strict=True):
            try:
                picture = decode_image(data, max_pixels=self._max_pixels)
                pixels.append(_resized(self._preprocessor, picture))
            except UnusableImageError as error:
                return reject(record.place, "decode", error.reason, f"image of {generator}: {error.detail}")
            pictures.append(picture)
        return DecodedRecord(
            place=record.place,
            generators=record.generators,
            pixels=pixels,
            text_original=record.text_original,
            text_positive=record.text_positive,
            formats=[picture.format for picture in pictures],
            widths=[picture.width for picture in pictures],
            heights=[picture.height for picture in pictures],
            num_bytes=[picture.num_bytes for picture in pictures],
            content_hashes=[hash_bytes(data) for data in record.images],
        )


def _resized(preprocessor: Preprocessor, picture: Picture) -> bytes:
    try:
        return preprocessor.pixels(picture.image).tobytes()
    except Exception as error:  # a mode that Pillow opens and can not resize, say
        raise UnusableImageError("undecodable", f"{picture.image.mode} of {picture.format}: {error}") from error


class RecordEncoder:
    """Encode decoded records: ``schema.DECODED`` to ``schema.features_schema``.

    Args:
        config: the encoder.
        text: whether prompts are encoded.
        threads: torch threads on a CPU; Ray would leave a worker one.
        progress: told when the encoder is loaded (step ``load``), and of each batch.
    """

    def __init__(self, config: ClipConfig, *, text: bool, threads: int, progress: Progress) -> None:
        torch.set_num_threads(threads)
        self._encoder = ClipEncoder.from_config(config)
        self._batch_size = config.batch_size
        self._features = config.features
        self._rounding = Rounding({name: name in config.float32 for name in config.features})
        self._text = text
        self._progress = progress
        progress("load", 1)  # ends the time to start: from now on the stall limit applies

    def __call__(self, table: pa.Table) -> pa.Table:
        """Tables in, tables out, row by row."""
        records = from_table(table, DecodedRecord)
        rejected, usable = split_rejected(records)
        image_features = self._encode_images(usable)
        prompts = {name: self._encode_prompts(usable, name) for name in ("text_original", "text_positive")}
        encoded = iter(
            [
                _encoded(record, features, {name: rows[number] for name, rows in prompts.items() if rows})
                for number, (record, features) in enumerate(zip(usable, image_features, strict=True))
            ]
        )
        self._progress("encode", len(rejected))
        return to_table(
            [record if isinstance(record, RejectedRecord) else next(encoded) for record in records],
            features_schema(self._features),
        )

    def _encode_images(self, records: list[DecodedRecord]) -> list[dict[str, np.ndarray]]:
        """Features of each record by name, (k, width) as they are stored; whole batches, whatever the records' borders."""
        flat = [pixels for record in records for pixels in record.pixels]
        size = self._encoder.preprocessor.config["size"]
        height, width = (size, size) if isinstance(size, int) else size
        encoded: dict[str, list[np.ndarray]] = {name: [] for name in self._features}
        ends = np.cumsum([len(record.pixels) for record in records], dtype=np.int64)
        for start in range(0, len(flat), self._batch_size):
            stop = min(start + self._batch_size, len(flat))
            pixels = np.frombuffer(bytearray(b"".join(flat[start:stop])), dtype=np.uint8).reshape(-1, height, width, 3)
            features = self._encoder.image_features(torch.from_numpy(pixels), self._features, batch_size=self._batch_size)
            for name, values in features.items():
                encoded[name].append(self._rounding.stored(name, values.numpy()))
            self._progress("encode", int(((ends > start) & (ends <= stop)).sum()))
        if not records:
            return []
        by_record = {name: np.split(np.concatenate(batches), ends[:-1]) for name, batches in encoded.items()}
        return [{name: parts[number] for name, parts in by_record.items()} for number in range(len(records))]

    def _encode_prompts(self, records: list[DecodedRecord], name: str) -> list[tuple[np.ndarray, bool]]:
        """Of each record, the features (D,) float16 of a prompt and whether it was cut; nothing where text is not wanted."""
        if not self._text or not records:
            return []
        features, cut = self._encoder.encode_texts([getattr(record, name) for record in records])
        return list(zip(as_float16(features.numpy()), cut.tolist(), strict=True))


def _encoded(
    record: DecodedRecord, image_features: dict[str, np.ndarray], prompts: dict[str, tuple[np.ndarray, bool]]
) -> EncodedRecord | RejectedRecord:
    """The record as it is written, rejected where a value does not fit."""
    features = image_features | {name: prompt for name, (prompt, _) in prompts.items()}
    for name, values in features.items():
        if not np.isfinite(values).all():
            return reject(record.place, "encode", "not_finite", f"{name}: a value is infinite or NaN in {values.dtype}")
    return EncodedRecord(
        place=record.place,
        generators=record.generators,
        image_features={name: values.tobytes() for name, values in image_features.items()},
        text_original=prompts["text_original"][0].tobytes() if prompts else None,
        text_positive=prompts["text_positive"][0].tobytes() if prompts else None,
        prompts_cut=sum(cut for _, cut in prompts.values()),
        formats=record.formats,
        widths=record.widths,
        heights=record.heights,
        num_bytes=record.num_bytes,
        content_hashes=record.content_hashes,
    )
