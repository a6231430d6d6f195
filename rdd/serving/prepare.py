"""From the bytes of an image to what the encoder takes, and to what is said of the file; without torch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdd.data.decode import UnusableImageError, decode_image
from rdd.preprocessing import Preprocessor
from rdd.serving.answer import ContentCredentials, Reason, Unreadable
from rdd.serving.content_credentials import read_credentials
from rdd.serving.reasons import reasons_of

MAX_PIXELS = 64_000_000
"""Largest width x height that is decoded, unless another is asked for; as records.max_pixels of an embedding."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One image before the encoder; picklable."""

    name: str | None
    """What the image is called in its answer."""
    sha256: str | None
    """Of its bytes; None where they could not be read."""
    pixels: np.ndarray | None
    """``(height, width, 3)`` uint8 as the encoder takes them; None where the image could not be read."""
    reasons: tuple[Reason, ...] = ()
    """What the file itself says against the verdict."""
    credentials: ContentCredentials
    """What the file claims of its origin."""
    error: Unreadable | None = None
    """Why there are no pixels."""


class Preparer:
    """Decodes, resizes and crops images as their embedding does; picklable.

    Args:
        preprocessing: of the encoder, from :attr:`rdd.detector.Detector.encoder_identity`.
        max_pixels: largest width x height that is decoded.
    """

    def __init__(self, preprocessing: Mapping[str, Any], *, max_pixels: int = MAX_PIXELS) -> None:
        self.preprocessor = Preprocessor(preprocessing)
        self._max_pixels = max_pixels

    def __call__(self, data: bytes, name: str | None = None) -> Prepared:
        """Prepare one image file; one that can not be used has its reason.

        Args:
            data: the whole file.
            name: what it is called in its answer.
        """
        digest = hashlib.sha256(data).hexdigest()
        credentials = read_credentials(data)
        try:
            picture = decode_image(data, max_pixels=self._max_pixels)
            pixels = self.preprocessor.pixels(picture.image)
        except UnusableImageError as error:
            unreadable = Unreadable(reason=error.reason, detail=error.detail)
            return Prepared(name=name, sha256=digest, pixels=None, credentials=credentials, error=unreadable)
        reasons = reasons_of(picture, seen=(self.preprocessor.width, self.preprocessor.height))
        return Prepared(name=name, sha256=digest, pixels=pixels, reasons=reasons, credentials=credentials)
