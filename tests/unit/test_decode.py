import io

import numpy as np
import pytest
from PIL import Image

from rdd.data.decode import UnusableImageError, decode_image


def encoded(encoding: str, size: tuple[int, int] = (40, 30), mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, format=encoding, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("encoding", ["AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_each_encoding_of_the_web_is_decoded_first(encoding: str) -> None:
    import subprocess
    import sys

    # in a process of its own: Pillow loads its decoders one by one, and a test before this one may have done so
    code = (
        "import sys; from rdd.data.decode import decode_image\n"
        "f = decode_image(sys.stdin.buffer.read(), max_pixels=10**6).facts\n"
        "print(f.format, f.width, f.height, f.num_bytes)"
    )
    data = encoded(encoding)
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert done.stdout.decode().split() == [encoding, "40", "30", str(len(data))]


def test_the_first_frame_of_an_animation_is_taken() -> None:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:])
    image = decode_image(buffer.getvalue(), max_pixels=100).image.convert("RGB")
    red, _, blue = image.getpixel((0, 0))
    assert red > 250
    assert blue < 5


def test_exif_rotation_is_not_applied_as_in_open_clips_loader() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    picture = decode_image(encoded("JPEG", exif=exif), max_pixels=10**6)
    assert picture.image.size == (40, 30)


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_the_mode_is_kept_for_open_clips_own_conversion(mode: str) -> None:
    assert decode_image(encoded("PNG", mode=mode), max_pixels=10**6).image.mode == mode


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"no image at all", "not_an_image"),
        (encoded("JPEG")[:200], "undecodable"),
        (encoded("PNG")[:-400], "undecodable"),
        (encoded("PNG", size=(1001, 1000)), "oversized"),
        (encoded("PNG", size=(30_000, 15_000), mode="1"), "oversized"),  # a bomb by Pillow's own rule
        (encoded("PNG", size=(1, 900), mode="1"), "oversized"),  # CLIP's resize would make it 224 x 201,600
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not_an_image"),
    ],
    ids=["zero bytes", "text", "cut jpeg", "cut png", "too many pixels", "bomb", "a line", "a program"],
)
def test_what_can_not_be_decoded_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableImageError) as caught:
        decode_image(data, max_pixels=10**6)
    assert caught.value.reason == reason
