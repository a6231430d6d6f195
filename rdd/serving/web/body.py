"""The image of a request: its body as it is, or the field ``image`` of a form; bounded while it arrives, and never on disk."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import unquote

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from rdd.serving.web.refusal import RefusalError

NAME_HEADER = "x-image-name"
MAX_NAME = 255
"""Characters of an image's name."""
MAX_CAPTION = 4096
"""Bytes of a caption; an encoder reads 77 tokens of it."""
FORM_OVERHEAD = 16 * 1024
"""Bytes that a form may have beside the image: boundaries, the headers of its parts, the caption."""

_FIELDS = ("image", "caption")


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What came."""

    data: bytes
    name: str | None
    caption: str | None = None


async def read_upload(request: Request, *, max_bytes: int, timeout_s: float) -> Upload:
    """The image of a request.

    Raises:
        RefusalError: 400 for a wrong form or name, 408 for a slow body, 413 for a large one, 415 for a packed one.
    """
    async with _arriving(request, timeout_s):
        if media_type(request) == "multipart/form-data":
            return await _of_form(request, max_bytes)
        name = _checked_name(unquote(request.headers.get(NAME_HEADER, ""), errors="replace"))
        return Upload(data=await _read_body(request, max_bytes, "an image"), name=name)


async def read_address(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """The body of a request that names an address.

    Raises:
        RefusalError: 408 for a slow body, 413 for a large one, 415 for a packed one.
    """
    async with _arriving(request, timeout_s):
        return await _read_body(request, max_bytes, "a body of JSON")


@asynccontextmanager
async def _arriving(request: Request, timeout_s: float) -> AsyncGenerator[None, None]:
    """Within it a body that is not packed arrives in time.

    Raises:
        RefusalError: 408 or 415.
    """
    if (packed := request.headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
        raise RefusalError(415, "packed", f"the body must come as it is, without Content-Encoding, got {packed[:50]!a}")
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise RefusalError(408, "slow", f"the body must arrive within {timeout_s:g} s; send it again") from error


def media_type(request: Request) -> str:
    """Type of the body, without its parameters, in small letters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read_body(request: Request, max_bytes: int, what: str) -> bytes:
    """The whole body, ``what``.

    Raises:
        RefusalError: 413, as soon as it is known to be larger.
    """
    data = bytearray()
    async for piece in _bounded(request, max_bytes, max_bytes, what):
        data += piece
    return bytes(data)


async def _bounded(request: Request, most: int, max_bytes: int, what: str) -> AsyncGenerator[bytes, None]:
    """Pieces of a body of at most ``most`` bytes, in which ``what`` has at most ``max_bytes``."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise _too_large(f"{int(length)}", max_bytes, what)
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise _too_large("more", max_bytes, what)
        yield piece


def _too_large(given: str, max_bytes: int, what: str) -> RefusalError:
    detail = f"{what} must have at most {max_bytes} bytes, got {given}; send a smaller one"
    return RefusalError(413, "too_large", detail)


class _InMemory(MultiPartParser):
    """Keeps files in memory, whose size is bounded before; Starlette's own writes larger ones to disk."""

    spool_max_size = 2**31


async def _of_form(request: Request, max_bytes: int) -> Upload:
    stream = _bounded(request, max_bytes + FORM_OVERHEAD, max_bytes, "an image")
    parser = _InMemory(request.headers, stream, max_files=1, max_fields=1, max_part_size=MAX_CAPTION)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        detail = f"a form must have one file, image, and at most one text of {MAX_CAPTION} bytes, caption: {error.message}"
        raise RefusalError(400, "form", detail) from error
    try:
        return await _checked_form(form, max_bytes)
    finally:
        await form.close()


async def _checked_form(form: FormData, max_bytes: int) -> Upload:
    if unknown := [name for name in form if name not in _FIELDS]:
        raise RefusalError(400, "form", f"the fields of a form must be image and caption, got {unknown[0][:50]!a}")
    image, caption = form.get("image"), form.get("caption")
    if not isinstance(image, UploadFile):
        given = "none" if image is None else "a text"
        raise RefusalError(400, "form", f"a form must have its image as a file in the field image, got {given}")
    if isinstance(caption, UploadFile):
        raise RefusalError(400, "form", "the field caption must be a text, got a file")
    data = await image.read()
    if len(data) > max_bytes:
        raise _too_large(f"{len(data)}", max_bytes, "an image")
    return Upload(data=data, name=_checked_name(image.filename or ""), caption=caption or None)


def _checked_name(name: str) -> str | None:
    if len(name) > MAX_NAME or not (not name or name.isprintable()):
        raise RefusalError(400, "name", f"the name of an image must have at most {MAX_NAME} printable characters")
    return name or None
