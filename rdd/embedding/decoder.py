"""From stored bytes to what the encoder takes: pixels and tokens, as a plain function of Arrow tables. Neither Ray nor torch.

A record that fails carries its stage and reason to the end instead of its images, so that it is written, counted and
committed like any other.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from rdd.data.decode import Picture, UnusableImageError, decode_image
from rdd.data.degrade import Degrader
from rdd.data.records import DecodedRecord, RawRecord, RejectedRecord, from_table, reject, to_table
from rdd.preprocessing import Preprocessor
from rdd.schema import decoded_schema
from rdd.tokens import PromptTokenizer

Progress = Callable[[str, int], None]
"""Callback: gets the name of a step and the number of records that it has just done."""


class RecordDecoder:
    """Decode and preprocess the images of records: ``schema.RAW`` to ``schema.decoded_schema``.

    Args:
        preprocessor: CLIP's steps on pictures.
        tokenizer: of the prompts; None where no text is wanted. With it a record without its prompts is rejected.
        degrader: what is done to each picture before; what is noted of a file stays that of the file as it was.
        views: of each view, what is done to the picture after that.
        max_pixels: largest image that is decoded.
        progress: told of each table.
    """

    def __init__(
        self,
        preprocessor: Preprocessor,
        tokenizer: PromptTokenizer | None,
        *,
        degrader: Degrader,
        views: Sequence[Degrader] = (),
        max_pixels: int,
        progress: Progress,
    ) -> None:
        self._preprocessor, self._tokenizer = preprocessor, tokenizer
        self._degrader, self._views = degrader, (Degrader([], seed=0), *views)  # the first is the picture itself
        self._schema = decoded_schema(len(views))
        self._max_pixels = max_pixels
        self._progress = progress

    def __call__(self, table: pa.Table) -> pa.Table:
        """Tables in, tables out, row by row."""
        records = [
            record if isinstance(record, RejectedRecord) else self._decode(record) for record in from_table(table, RawRecord)
        ]
        self._progress("decode", len(records))
        return to_table(records, self._schema)

    def _decode(self, record: RawRecord) -> DecodedRecord | RejectedRecord:
        missing = [name for name in ("text_original", "text_positive") if not getattr(record, name)]
        if self._tokenizer is not None and missing:
            return reject(record.place, "decode", "missing_prompt", ", ".join(missing))
        pictures, shown = [], []
        for generator, data in zip(record.generators, record.images, strict=True):
            try:
                picture = decode_image(data, max_pixels=self._max_pixels)
                shown.append(self._resized(picture))
            except UnusableImageError as error:
                return reject(record.place, "decode", error.reason, f"image of {generator}: {error.detail}")
            pictures.append(picture)
        (original, positive), cut = self._tokens(record)
        pixels, *views = [[of_image[view] for of_image in shown] for view in range(len(self._views))]
        return DecodedRecord(
            place=record.place,
            generators=record.generators,
            pixels=pixels,
            views=views,
            caption_original=record.text_original,
            caption_positive=record.text_positive,
            tokens_original=original,
            tokens_positive=positive,
            prompts_cut=cut,
            files=[picture.facts for picture in pictures],
        )

    def _resized(self, picture: Picture) -> list[bytes]:
        """Pixels of the picture, then those of each view of it."""
        reason, what = "not_degraded", f"{picture.image.mode} of {picture.facts.format}"
        pixels = []
        try:
            image = self._degrader(picture.image, picture.facts.sha256)
            for view in self._views:
                reason = "not_degraded"
                degraded = view(image, picture.facts.sha256)
                reason = "undecodable"
                pixels.append(self._preprocessor.pixels(degraded).tobytes())
            return pixels
        except Exception as error:  # a mode that Pillow opens and can not resize, a picture too wide for WebP, say
            raise UnusableImageError(reason, f"{what}: {error}") from error

    def _tokens(self, record: RawRecord) -> tuple[tuple[bytes | None, bytes | None], int]:
        """Tokens of the two prompts, and how many of these were cut."""
        if self._tokenizer is None:
            return (None, None), 0
        assert record.text_original is not None
        assert record.text_positive is not None
        tokens, cut = self._tokenizer([record.text_original, record.text_positive])
        original, positive = (np.ascontiguousarray(row, dtype="<i4").tobytes() for row in tokens)
        return (original, positive), int(cut.sum())
