import hashlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from rdd.data.decode import decode_image
from rdd.data.file_facts import FileFacts

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))


def facts(picture: Image.Image, file_format: str, **options: Any) -> FileFacts:
    buffer = io.BytesIO()
    picture.save(buffer, format=file_format, **options)
    return decode_image(buffer.getvalue(), max_pixels=10_000).facts


@pytest.mark.parametrize("quality", range(1, 101, 9))
def test_the_quality_of_a_jpeg_is_the_one_that_it_was_written_with(quality: int) -> None:
    assert facts(PICTURE, "JPEG", quality=quality).jpeg_quality == quality


def test_chroma_subsampling_of_a_jpeg() -> None:
    assert [facts(PICTURE, "JPEG", subsampling=number).chroma for number in range(3)] == ["4:4:4", "4:2:2", "4:2:0"]
    assert facts(PICTURE.convert("L"), "JPEG").chroma == "grey"
    assert facts(PICTURE.convert("CMYK"), "JPEG").chroma == "other"
    for other in ("PNG", "WEBP", "BMP", "GIF", "TIFF"):
        assert (facts(PICTURE, other).chroma, facts(PICTURE, other).jpeg_quality) == (None, None)


def test_metadata_that_a_file_brings_along() -> None:
    def metadata(found: FileFacts) -> tuple[bool, bool, bool]:
        return found.has_exif, found.has_icc, found.has_other_metadata

    exif = Image.Exif()
    exif[0x010F] = "a camera"
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a cat, sharp")
    assert metadata(facts(PICTURE, "JPEG")) == metadata(facts(PICTURE, "PNG")) == (False, False, False)
    for file_format in ("JPEG", "PNG", "WEBP"):
        assert metadata(facts(PICTURE, file_format, exif=exif)) == (True, False, False)
        assert metadata(facts(PICTURE, file_format, icc_profile=b"profile")) == (False, True, False)
    assert metadata(facts(PICTURE, "PNG", pnginfo=text)) == (False, False, True)
    assert metadata(facts(PICTURE, "JPEG", comment=b"mine")) == (False, False, True)


def test_hashes_are_those_of_the_bytes() -> None:
    buffer = io.BytesIO()
    PICTURE.save(buffer, format="PNG")
    found = decode_image(buffer.getvalue(), max_pixels=10_000).facts
    assert found.sha256 == hashlib.sha256(buffer.getvalue()).digest()
    assert found.content_hash == int.from_bytes(found.sha256[:8], "little")
    assert (found.format, found.width, found.height, found.num_bytes) == ("PNG", 50, 40, len(buffer.getvalue()))
