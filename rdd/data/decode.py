"""Bytes of an image to a picture, or the reason why not.

Choices, written down because a detector learns from them: the first frame of an animation is taken; EXIF rotation is not
applied; the picture keeps its own mode. In each this is what ``Image.open`` and with it open_clip's loader do.
"""

import io
import warnings
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from rdd.data.file_facts import FileFacts, facts_of

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats that are opened: D3's, and what the web serves. Others (EPS, say) would run programs."""


MAX_ASPECT = 100
"""Longest side over the shortest: CLIP's resize scales the short side, so a line of pixels would become gigabytes."""


class UnusableImageError(Exception):
    """An image that can not be used; ``reason`` is one word to count by, ``detail`` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Picture:
    """A decoded image and what is known of its file."""

    image: Image.Image
    facts: FileFacts


def decode_image(data: bytes, *, max_pixels: int) -> Picture:
    """Decode one image file.

    Args:
        data: the whole file.
        max_pixels: largest width x height that is decoded, below Pillow's own limit of 178,956,970; checked in the header,
            before any pixel is decoded.

    Raises:
        UnusableImageError: reason ``empty``, ``not_an_image``, ``oversized`` or ``undecodable`` (truncated files among these).
    """
    if not data:
        raise UnusableImageError("empty", "the image has zero bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large and odd files; both are decided here
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError as error:
            if (begun := _format_of(data)) is not None:
                raise UnusableImageError("undecodable", f"it begins as {begun}, and its header can not be read") from error
            raise UnusableImageError("not_an_image", f"none of {', '.join(FORMATS)}") from error
        except Image.DecompressionBombError as error:
            raise UnusableImageError("oversized", str(error)) from error
        except Exception as error:  # a malformed header raises whatever its decoder stumbles over
            raise UnusableImageError("undecodable", str(error)) from error
        width, height = image.size
        if width * height > max_pixels:
            raise UnusableImageError("oversized", f"{width} x {height} pixels, at most {max_pixels} are decoded")
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise UnusableImageError("oversized", f"{width} x {height} pixels, one side at most {MAX_ASPECT} times the other")
        try:
            image.load()
        except Exception as error:  # so does a malformed body
            raise UnusableImageError("undecodable", str(error)) from error
    return Picture(image, facts_of(data, image))


def _format_of(data: bytes) -> str | None:
    """The format that a file's first bytes promise, by Pillow's own rules; None for none of ours."""
    for name in FORMATS:  # all of them loaded by the attempt to open it
        accepts = Image.OPEN[name][1]
        if accepts is not None and accepts(data[:16]) is True:
            return name
    return None
