"""An image by its address, through the project's guarded fetcher; for servers that were told to fetch."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rdd.config.fetch import FetchConfig
from rdd.data.block_list import BlockList
from rdd.data.fetch import Fetcher, open_fetcher
from rdd.data.host_leases import NoLimit
from rdd.serving.web.body import MAX_NAME, Upload
from rdd.serving.web.refusal import RefusalError
from rdd.serving.web.settings import WebSettings

MAX_REQUEST = 16 * 1024
"""Bytes of a body that holds an address."""

_MAX_URL = 2048


@asynccontextmanager
async def address_reader(settings: WebSettings) -> AsyncIterator["AddressReader"]:
    """Reads images by their addresses while it is open; refuses all where none are to be fetched."""
    if not settings.fetch_contact:
        yield AddressReader(None)
        return
    config = FetchConfig(
        contact=settings.fetch_contact,
        max_bytes=settings.max_bytes,
        image_timeout_s=settings.body_timeout_s,
        retries=0,
        in_flight=settings.max_in_flight,
    )
    async with open_fetcher(config, BlockList(), NoLimit()) as fetcher:
        yield AddressReader(fetcher)


class AddressReader:
    """Images by their addresses.

    Args:
        fetcher: refuses addresses that are not public; None to refuse all.
    """

    def __init__(self, fetcher: Fetcher | None) -> None:
        self._fetcher = fetcher

    def check(self) -> None:
        """Refuse before a body is read.

        Raises:
            RefusalError: 403 where no addresses are fetched.
        """
        if self._fetcher is None:
            raise RefusalError(403, "urls_off", "this server fetches no addresses; send the image itself as the body")

    async def read(self, body: bytes) -> Upload:
        """The image that a body names, once :meth:`check` has passed.

        Args:
            body: JSON, ``{"url": "https://...", "caption": "..."}``, the caption optional.

        Raises:
            RefusalError: 400 for another body, 422 where there is no image.
        """
        assert self._fetcher is not None
        url, caption = _request_of(body)
        outcome = await self._fetcher.fetch(url)
        if not outcome.ok or outcome.data is None:
            raise RefusalError(
                422, "not_fetched", f"the address gave no image: {outcome.status}, {outcome.detail or 'no more'}"
            )
        return Upload(data=outcome.data, name=url[:MAX_NAME], caption=caption)


def _request_of(body: bytes) -> tuple[str, str | None]:
    """Address and caption."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        given = None
    if isinstance(given, dict) and given.keys() <= {"url", "caption"}:
        url, caption = given.get("url"), given.get("caption")
        if isinstance(url, str) and len(url) <= _MAX_URL and (caption is None or isinstance(caption, str)):
            return url, caption or None
    detail = f'a body of JSON must be {{"url": "https://..."}} of at most {_MAX_URL} characters, with a caption if there is one'
    raise RefusalError(400, "json", detail)
