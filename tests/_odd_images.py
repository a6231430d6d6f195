"""Files that are images of an odd kind, broken images, or no images at all, and what is to become of each."""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

MAX_PIXELS = 1_000_000
"""At which these are to be decoded: above all of them but the bombs."""

WIDTH, HEIGHT = 60, 44


@dataclass(frozen=True)
class Odd:
    """A file."""

    name: str
    """Its kind, with the ending that the file is given in a folder."""
    data: bytes
    reason: str | None
    """Why it can not be used; None where it is decoded as open_clip's loader does it."""


def odd_images() -> list[Odd]:
    """All of them, each with another picture."""
    return [Odd(name, data, reason) for reason, kind in _KINDS for name, data in kind()]


def _picture(mode: str = "RGB", seed: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, size[0])[None, :, None] + rng.integers(0, 55, (size[1], size[0], 4))
    return Image.fromarray(ramp.astype(np.uint8), "RGBA").convert(mode)


def _saved(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def _jpegs() -> Iterator[tuple[str, bytes]]:
    cmyk = _saved(_picture("CMYK", 1), "JPEG")
    yield "cmyk, inverted as by Adobe.jpg", cmyk
    yield "cmyk without Adobe's mark.jpg", _without_segment(cmyk, 0xEE)
    yield "progressive.jpg", _saved(_picture(seed=2), "JPEG", progressive=True)
    yield "grey.jpg", _saved(_picture("L", 3), "JPEG")
    yield "4:4:4 of quality 100.jpg", _saved(_picture(seed=4), "JPEG", subsampling=0, quality=100)
    yield "restart markers.jpg", _saved(_picture(seed=5), "JPEG", restart_marker_rows=1)
    yield "garbage behind the end.jpg", _saved(_picture(seed=6), "JPEG") + bytes(range(256)) * 20
    yield "two pictures (MPO).jpg", _saved(_picture(seed=7), "MPO", save_all=True, append_images=[_picture(seed=8)])
    yield "corrupt colour profile.jpg", _saved(_picture(seed=9), "JPEG", icc_profile=b"\x00\x01no profile" * 9)
    yield "corrupt EXIF.jpg", _saved(_picture(seed=10), "JPEG", exif=b"Exif\0\0MM\x00\x2a\xff\xff\xff\xff" + b"\xff" * 40)
    for orientation in (3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"EXIF orientation {orientation}.jpg", _saved(_picture(seed=10 + orientation), "JPEG", exif=exif)
    yield "a PNG by another name.jpg", _saved(_picture(seed=20), "PNG")


def _without_segment(data: bytes, marker: int) -> bytes:
    start = data.index(bytes([0xFF, marker]))
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


def _pngs() -> Iterator[tuple[str, bytes]]:
    palette = _picture(seed=31).quantize(16)
    yield "16 bits, grey.png", _saved(Image.fromarray(np.asarray(_picture("L", 30)).astype("<u2") * 257), "PNG")
    yield "16 bits, colour.png", _png(_rgb(32).astype(">u2").tobytes(), depth=16)
    yield "palette with transparency.png", _saved(palette, "PNG", transparency=3)
    yield "palette with an alpha each.png", _saved(palette, "PNG", transparency=bytes(range(0, 256, 16)))
    yield "grey with a transparent value.png", _saved(_picture("L", 33), "PNG", transparency=80)
    yield "interlaced.png", _interlaced(_rgb(34))
    yield "grey and alpha.png", _saved(_picture("LA", 35), "PNG")
    yield "colour and alpha.png", _saved(_picture("RGBA", 36), "PNG")
    yield "one bit.png", _saved(_picture("1", 37), "PNG")
    yield "animated.png", _saved(_picture(seed=38), "PNG", save_all=True, append_images=[_picture(seed=39)])
    yield "one pixel.png", _saved(_picture(seed=40, size=(1, 1)), "PNG")
    yield "thin.png", _saved(_picture(seed=41, size=(1, 90)), "PNG")
    yield "animated, and its last frame broken.png", _broken_last_frame()


def _rgb(seed: int) -> np.ndarray:
    return np.asarray(_picture(seed=seed))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(
    pixels: bytes, *, size: tuple[int, int] = (WIDTH, HEIGHT), depth: int = 8, interlaced: bool = False, extra: bytes = b""
) -> bytes:
    """A PNG in colour of whole scan lines without filter, or of those of seven passes."""
    line = size[0] * 3 * depth // 8
    lines = pixels if interlaced else b"".join(b"\0" + pixels[at : at + line] for at in range(0, len(pixels), line))
    header = struct.pack(">IIBBBBB", *size, depth, 2, 0, 0, interlaced)
    body = _chunk(b"IDAT", zlib.compress(lines)) if lines else b""
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + body + _chunk(b"IEND", b"")


def _interlaced(pixels: np.ndarray) -> bytes:
    """Adam7: Pillow reads it and can not write it."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    lines = [b"\0" + row.tobytes() for left, top, right, down in passes for row in pixels[top::down, left::right] if row.size]
    return _png(b"".join(lines), interlaced=True)


def _broken_last_frame() -> bytes:
    data = _saved(_picture(seed=43), "PNG", save_all=True, append_images=[_picture(seed=44), _picture(seed=45)])
    start = data.rindex(b"fcTL")
    return data[:start] + b"fcTL" + b"\xff" * 26 + data[start + 30 :]


def _others() -> Iterator[tuple[str, bytes]]:
    yield "animated.gif", _saved(_picture("P", 50), "GIF", save_all=True, append_images=[_picture("P", 51)])
    yield "transparent and interlaced.gif", _saved(_picture(seed=52).quantize(16), "GIF", transparency=2, interlace=1)
    yield "animated.webp", _saved(_picture(seed=53), "WEBP", save_all=True, append_images=[_picture(seed=54)])
    yield "lossless.webp", _saved(_picture("RGBA", 55), "WEBP", lossless=True)
    for mode in ("1", "L", "P", "RGBA"):
        yield f"mode {mode}.bmp", _saved(_picture(mode, 60 + len(mode) + ord(mode[0])), "BMP")
    yield "two pages.tif", _saved(_picture(seed=70), "TIFF", save_all=True, append_images=[_picture("L", 71)])
    floats = np.asarray(_picture("L", 72)).astype(np.float32) * 1.5 - 20
    yield "floating point.tif", _saved(Image.fromarray(floats), "TIFF")
    yield "32 bits.tif", _saved(Image.fromarray(np.asarray(_picture("L", 73)).astype(np.int32) * 3), "TIFF")
    yield (
        "16 bits, of the large kind (BigTIFF).tif",
        _saved(Image.fromarray(np.asarray(_picture("L", 74)).astype("<u2")), "TIFF", big_tiff=True),
    )
    yield "cmyk.tif", _saved(_picture("CMYK", 75), "TIFF", compression="tiff_lzw")
    yield "colour space Lab.tif", _saved(Image.new("LAB", (WIDTH, HEIGHT), (99, 30, 40)), "TIFF")
    yield "16 bits, colour.tif", _wide_tiff()
    yield "jpeg inside.tif", _saved(_picture(seed=76), "TIFF", compression="jpeg")
    yield "today's.avif", _saved(_picture(seed=77), "AVIF")


def _broken() -> Iterator[tuple[str, bytes]]:
    jpeg, png = _saved(_picture(seed=80), "JPEG", quality=95), _saved(_picture(seed=81), "PNG")
    for bytes_left in (3, 20, 200, len(jpeg) // 2, len(jpeg) - 40):
        yield f"cut to {bytes_left} bytes.jpg", jpeg[:bytes_left]
    for bytes_left in (8, 30, len(png) // 2):
        yield f"cut to {bytes_left} bytes.png", png[:bytes_left]
    yield "cut.webp", _saved(_picture(seed=82), "WEBP")[:-80]
    yield "cut.gif", _saved(_picture("P", 83), "GIF")[:-300]
    yield "cut.bmp", _saved(_picture(seed=84), "BMP")[:-300]
    yield "cut.tif", _saved(_picture(seed=85), "TIFF")[:-300]
    broken = bytearray(png)
    broken[png.index(b"IDAT") + 40] ^= 0xFF
    yield "wrong checksum of the pixels.png", bytes(broken)
    yield "wrong checksum of a text.png", _png(_rgb(42).tobytes(), extra=_chunk(b"tEXt", b"Comment\0mine")[:-1] + b"?")
    yield "without pixels.png", _png(b"")
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "0" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    yield "a text that unpacks to more than a MB.png", _saved(_picture(seed=86), "PNG", pnginfo=text)


def _wide_tiff() -> bytes:
    """Sixteen bits of each of three colours, which Pillow reads and has no mode to write of."""
    pixels = (np.asarray(_picture(seed=78)).astype("<u2") * 257).tobytes()
    numbers = {256: WIDTH, 257: HEIGHT, 258: 122, 259: 1, 262: 2, 273: 128, 277: 3, 278: HEIGHT, 279: len(pixels)}
    entries = b"".join(
        struct.pack("<HHII", tag, 3 if tag == 258 else 4, 3 if tag == 258 else 1, n) for tag, n in numbers.items()
    )
    return b"II*\0" + struct.pack("<IH", 8, len(numbers)) + entries + bytes(4) + struct.pack("<3H", 16, 16, 16) + pixels


def _large() -> Iterator[tuple[str, bytes]]:
    yield "a bomb of 30,000 x 15,000.png", _png(b"", size=(30_000, 15_000), extra=_chunk(b"IDAT", b""))
    yield "more pixels than asked for.png", _saved(Image.new("1", (1001, 1000)), "PNG")
    yield "too thin.png", _saved(Image.new("1", (1, 101)), "PNG")


def _no_images() -> Iterator[tuple[str, bytes]]:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    yield "what a phone writes (HEIC).jpg", heic
    yield "a drawing (SVG).png", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    yield "a document (PDF).jpg", _saved(_picture(seed=90), "PDF")
    yield "a page (HTML).jpg", b"<!DOCTYPE html><html><title>404</title></html>"
    yield "a program (EPS).jpg", _saved(_picture(seed=91), "EPS")
    yield "an icon (ICO).png", _saved(_picture(seed=92, size=(32, 32)), "ICO")
    yield "noise.jpg", np.random.default_rng(93).bytes(4000)
    for file_format in ("JPEG2000", "QOI", "PPM", "DDS", "TGA", "PCX"):
        yield f"not of the web ({file_format}).png", _saved(_picture(seed=94 + len(file_format)), file_format)


def _empty() -> Iterable[tuple[str, bytes]]:
    return [("zero bytes.jpg", b"")]


_KINDS = (
    (None, _jpegs),
    (None, _pngs),
    (None, _others),
    ("undecodable", _broken),
    ("oversized", _large),
    ("not_an_image", _no_images),
    ("empty", _empty),
)
