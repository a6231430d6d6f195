"""Requests that no image comes with, or not as it must: what is sent, and the code and reason that are to come back."""

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from _odd_images import MAX_PIXELS, odd_images
from _served import FORM, form
from PIL import Image

MAX_BYTES = 500_000
"""Which these servers take."""


@dataclass
class Bad:
    """A request."""

    name: str
    status: int
    reason: str
    body: bytes | Callable[[], Iterable[bytes]] | None
    """What is sent; a callable gives the pieces of a body without end or length."""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    path: str = "/predict"

    def options(self) -> dict[str, Any]:
        """For :func:`_served.ask`."""
        chunked = callable(self.body)
        return {"body": self.body() if callable(self.body) else self.body, "encode_chunked": chunked, "headers": self.headers}


def bad_bodies() -> list[Bad]:
    """All of them."""
    files = [Bad(odd.name, 422, odd.reason, odd.data) for odd in odd_images() if odd.reason is not None]
    return [*files, *_more_files(), *_forms(), *_others()]


def good_image(seed: int = 0) -> bytes:
    """A JPEG."""
    rng = np.random.default_rng(seed)
    return _saved(Image.fromarray(rng.integers(0, 255, (60, 50, 3), dtype=np.uint8)), "JPEG")


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def _more_files() -> Iterator[Bad]:
    yield Bad("1 x 65,500 pixels", 422, "oversized", _saved(Image.new("L", (1, 65_500)), "PNG"))
    yield Bad("65,500 x 1 pixels", 422, "oversized", _saved(Image.new("L", (65_500, 1)), "JPEG"))
    flat = _saved(Image.new("1", (2000, 2000)), "PNG")
    assert 2000 * 2000 > MAX_PIXELS
    yield Bad("a bomb of zeros", 422, "oversized", flat)
    yield Bad("a script that begins as a GIF", 422, "undecodable", b"GIF89a/*" + b"A" * 50 + b"*/=1;alert(1)//")
    yield Bad("a document with a JPEG inside", 422, "not_an_image", b"%PDF-1.7\n" + good_image())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("image.jpg", good_image())
    yield Bad("an archive", 422, "not_an_image", packed.getvalue())
    text = b"tEXtComment\0" + b"A" * 250_000
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    png = _saved(Image.new("L", (9, 9)), "PNG")
    yield Bad("a text of 250,000 bytes, and then no pixels.png", 422, "undecodable", png[:33] + chunk)
    tiff = bytearray(_saved(Image.new("L", (9, 9)), "TIFF"))
    tiff[4:8] = len(tiff).to_bytes(4, "little")
    yield Bad("a directory behind the end.tif", 422, "undecodable", bytes(tiff))


def _forms() -> Iterator[Bad]:
    image = ("image", "a.jpg", good_image())
    for name, body in {
        "two images": form(image, image),
        "an image by another name": form(("file", "a.jpg", good_image())),
        "no image": form(("caption", None, b"a dog")),
        "an image and a field that is not known": form(image, ("model", None, b"other")),
        "an image as a text": form(("image", None, b"abc")),
        "a caption as a file": form(("caption", "c.txt", b"a dog")),
        "a caption of 5,000 bytes": form(image, ("caption", None, b"a" * 5000)),
        "nothing in the form": form(),
        "a form that breaks off": form(image, end=False)[:-2000],
        "another boundary": form(image, boundary="another"),
        "no form": good_image(),
        "a part without a name": form(image).replace(b'; name="image"', b""),
        "a file name of 300 characters": form(("image", "a" * 300, good_image())),
    }.items():
        yield Bad(name, 400, "name" if "300" in name else "form", body, FORM)
    yield Bad("a form without a boundary", 400, "form", form(image), {"Content-Type": "multipart/form-data"})
    yield Bad("an empty file", 422, "empty", form(("image", "a.jpg", b"")), FORM)
    yield Bad("a broken file in a form", 422, "undecodable", form(("image", "a.jpg", good_image()[:400])), FORM)
    yield Bad("a large file in a form", 413, "too_large", form(("image", "a.jpg", bytes(MAX_BYTES + 1))), FORM)


def _others() -> Iterator[Bad]:
    yield Bad("a byte too many", 413, "too_large", bytes(MAX_BYTES + 1))
    yield Bad("100 MB", 413, "too_large", lambda: (bytes(2**20) for _ in range(100)), {"Content-Length": str(100 * 2**20)})
    yield Bad("a length of 100 GB", 413, "too_large", b"GIF89a", {"Content-Length": str(10**11)})
    yield Bad("pieces up to 100 MB, without a length", 413, "too_large", lambda: (bytes(2**20) for _ in range(100)))
    as_json = {"Content-Type": "application/json"}
    yield Bad("an address", 403, "urls_off", json.dumps({"url": "http://127.0.0.1/a.jpg"}).encode(), as_json)
    yield Bad("much JSON", 403, "urls_off", b"[" * 100_000, as_json)
    yield Bad(
        "a form of another kind", 422, "not_an_image", b"image=abc", {"Content-Type": "application/x-www-form-urlencoded"}
    )
    yield Bad("a packed image", 415, "packed", gzip.compress(good_image()), {"Content-Encoding": "gzip"})
    yield Bad("a name of 300 characters", 400, "name", good_image(), {"X-Image-Name": "a" * 300})
    yield Bad("a name with a line break", 400, "name", good_image(), {"X-Image-Name": "a%0Ab"})
    yield Bad("a header of 20,000 bytes", 431, "header_too_large", good_image(), {"X-Other": "a" * 20_000})
    yield Bad("an unknown wish", 400, "query", good_image(), path="/predict?exlain=true")
    yield Bad("an unknown format", 400, "query", good_image(), path="/predict?format=xml")
    yield Bad("another method", 405, "method", good_image(), method="PUT")
    yield Bad("no method to send with", 405, "method", None, method="GET")
    yield Bad("another route", 404, "no_route", good_image(), path="/predict/all")
    yield Bad("a way out of the folder", 404, "no_route", None, method="GET", path="/../../etc/passwd")
    yield Bad("from another site's page", 403, "cross_site", good_image(), {"Origin": "https://elsewhere.example"})
    yield Bad("from another site's script", 403, "cross_site", good_image(), {"Sec-Fetch-Site": "cross-site"})
