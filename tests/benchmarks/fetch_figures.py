"""Images a second that one worker fetches, over a bare loop of aiohttp on the same server."""

import asyncio
import io
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import numpy as np
import pyarrow as pa
from aiohttp import web
from measure import Figure, times_as_fast
from PIL import Image

from rdd.config import FetchConfig
from rdd.data.block_list import BlockList
from rdd.data.fetch import open_fetcher
from rdd.data.fetch_part import fetch_rows
from rdd.data.fetched import Part, commit, parts_of, read_part, slices, write_part
from rdd.data.host_leases import NoLimit
from rdd.schema import ADDRESSES, STATUS_OK

IMAGES = 4000
IMAGE_BYTES = 30_000


def image() -> bytes:
    """A JPEG of about 30 KB: noise of the right size."""
    pixels = np.random.default_rng(0).integers(0, 256, (190, 190, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=83)
    assert abs(buffer.tell() - IMAGE_BYTES) < 3000, buffer.tell()
    return buffer.getvalue()


async def serve(port_file: Path) -> None:
    """Listen, and say where."""
    body = image()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="image/jpeg")

    runner = web.AppRunner(web.Application(), access_log=None)
    runner.app.router.add_get("/{name}", answer)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port_file.write_text(str(runner.addresses[0][1]))
    await asyncio.Event().wait()


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The server as a process of its own; its address."""
    port_file = folder / "port"
    process = subprocess.Popen([sys.executable, __file__, str(port_file)])
    try:
        while not (port_file.exists() and port_file.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port_file.read_text()}"
    finally:
        process.kill()
        process.wait()


async def bare_loop(urls: list[str], in_flight: int) -> None:
    """What aiohttp's documentation begins with: as many requests at once, each body read."""
    places = asyncio.Semaphore(in_flight)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def get(url: str) -> int:
            async with places, session.get(url) as response:
                return len(await response.read())

        sizes = await asyncio.gather(*map(get, urls))
    assert len(sizes) == len(urls)


async def one_worker(urls: list[str], config: FetchConfig, output: str) -> None:
    """What a worker does with its files, to the commits; it fills some of them at the same time."""
    parts = parts_of(len(urls), config.records_per_file)
    rows = len(urls)
    ids, first = [str(row) for row in range(rows)], list(range(rows))
    known = {"id": ids, "url": urls, "first": first}
    addresses = pa.table({f.name: known.get(f.name, pa.nulls(rows, f.type)) for f in ADDRESSES}, schema=ADDRESSES)
    at_once = asyncio.Semaphore(config.files_per_worker)
    async with open_fetcher(config, BlockList(), NoLimit()) as fetcher:

        async def fill(part: Part, rows: pa.Table) -> None:
            async with at_once:
                table = await fetch_rows(rows, None, fetcher, lambda outcome: None)
                await asyncio.to_thread(write_part, output, part, table)
                await asyncio.to_thread(commit, output, part, 0)

        await asyncio.gather(*itertools.starmap(fill, zip(parts, slices(addresses, parts), strict=True)))


def check_whole(output: str, records_per_file: int) -> None:
    """Every image is there."""
    for part in parts_of(IMAGES, records_per_file):
        assert set(read_part(output, part, ["status"])["status"].to_pylist()) == {STATUS_OK}


def fetch_figures(folder: Path) -> list[Figure]:
    """4,000 images of 30 KB from a server of aiohttp's in a process of its own; what was fetched is written and committed."""
    config = FetchConfig(contact="bench@example.org", allow_loopback=True, per_host=0)
    numbers = itertools.count()
    with server(folder) as address:
        urls = [f"{address}/{number}.jpg" for number in range(IMAGES)]
        ratio = times_as_fast(
            lambda: asyncio.run(one_worker(urls, config, str(folder / f"fetched-{next(numbers)}"))),
            lambda: asyncio.run(bare_loop(urls, config.in_flight)),
        )
    for number in range(next(numbers)):
        check_whole(str(folder / f"fetched-{number}"), config.records_per_file)
    return [Figure("images/s fetched by one worker over aiohttp's bare loop", ratio, at_least=0.8)]


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
