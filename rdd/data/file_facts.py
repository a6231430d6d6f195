"""What is known of an image's file besides its pixels: by this an audit finds what a detector could have learned instead.

D3 is read once, so everything that an audit may ask for is noted then.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, JpegImagePlugin

_CHROMA = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
_OTHER_METADATA = ("comment", "photoshop", "xmp", "XML:com.adobe.xmp", "mp")

_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
"""Quantisation of luminance at quality 50, ITU-T T.81 table K.1, which libjpeg and most others scale."""


def _table_sums() -> np.ndarray:
    """``(100,)``: the sum of libjpeg's table of each quality from 1 to 100, which falls."""
    quality = np.arange(1, 101)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return np.clip((_LUMINANCE.reshape(1, -1) * scale[:, None] + 50) // 100, 1, 255).sum(axis=1)


_SUMS = _table_sums()


@dataclass(frozen=True)
class FileFacts:
    """Of one image file."""

    format: str
    """Pillow's name, such as JPEG."""
    width: int
    height: int
    num_bytes: int
    content_hash: int
    """First 64 bits of ``sha256``; two images with equal ones are one image."""
    sha256: bytes
    """Of the file's bytes, 32 of them."""
    jpeg_quality: int | None
    """The quality in [1, 100] at which libjpeg's table of luminance comes nearest to the file's; None for other formats."""
    chroma: str | None
    """Chroma subsampling of a JPEG: 4:4:4, 4:2:2, 4:2:0, grey or other; None for other formats."""
    has_exif: bool
    has_icc: bool
    """Whether there is a colour profile."""
    has_other_metadata: bool
    """Whether there is XMP, a comment, text, or what Photoshop and phones add."""


def facts_of(data: bytes, image: Image.Image) -> FileFacts:
    """What is known of a file.

    Args:
        data: the whole file.
        image: as Pillow has opened and decoded it.
    """
    digest = hashlib.sha256(data).digest()
    return FileFacts(
        format=str(image.format),
        width=image.width,
        height=image.height,
        num_bytes=len(data),
        content_hash=int.from_bytes(digest[:8], "little"),
        sha256=digest,
        jpeg_quality=_jpeg_quality(image),
        chroma=_chroma(image),
        has_exif=bool(image.info.get("exif")),
        has_icc=bool(image.info.get("icc_profile")),
        has_other_metadata=any(image.info.get(name) for name in _OTHER_METADATA) or bool(getattr(image, "text", None)),
    )


def _jpeg_quality(image: Image.Image) -> int | None:
    tables = getattr(image, "quantization", None)
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or not tables:
        return None
    return int(np.abs(_SUMS - sum(tables[min(tables)])).argmin()) + 1


def _chroma(image: Image.Image) -> str | None:
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return None
    return "grey" if image.layers == 1 else _CHROMA.get(JpegImagePlugin.get_sampling(image), "other")
