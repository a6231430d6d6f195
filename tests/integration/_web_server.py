"""A web server with every vice, as a process of its own: ``python _web_server.py PORT_FILE [PORT]``.

It listens on 127.0.0.1 to 127.0.0.8, which count as hosts of their own. ``/stats`` tells what it has seen.
"""

import asyncio
import gzip
import io
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from aiohttp import web
from PIL import Image

HOSTS = [f"127.0.0.{number}" for number in range(1, 9)]


def image(number: int, *, size: tuple[int, int] = (48, 32)) -> bytes:
    """A JPEG of its own for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


PLACEHOLDER = image(10**6)


class Server:
    """Handlers, and counts of requests by path, by host, and at the same time."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.odd_headers: set[str] = set()
        self.agents: set[str] = set()

    @web.middleware
    async def count(self, request: web.Request, handler) -> web.StreamResponse:
        if request.path == "/stats":
            return await handler(request)
        host = request.host.partition(":")[0]
        self.requests[request.path_qs] += 1
        self.agents.add(request.headers.get("User-Agent", ""))
        wanted = {"Cookie", "Authorization", "Proxy-Authorization", "Proxy-Connection"}
        self.odd_headers |= wanted & set(request.headers)
        if request.headers.get("Accept-Encoding") != "identity":
            self.odd_headers.add(f"Accept-Encoding: {request.headers.get('Accept-Encoding')}")
        self.now[host] += 1
        self.most[host] = max(self.most[host], self.now[host])
        try:
            return await handler(request)
        finally:
            self.now[host] -= 1

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "requests": self.requests,
                "most": self.most,
                "odd_headers": sorted(self.odd_headers),
                "agents": sorted(self.agents),
            }
        )

    async def image(self, request: web.Request) -> web.Response:
        await asyncio.sleep(float(request.query.get("delay", 0)))
        headers = {"Set-Cookie": "seen=1"}
        if "robots" in request.query:
            headers["X-Robots-Tag"] = request.query["robots"]
        return web.Response(body=image(int(request.match_info["number"])), content_type="image/jpeg", headers=headers)

    async def status(self, request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["code"]), text="no")

    async def first_fails(self, request: web.Request) -> web.Response:
        """A status for the first requests, with Retry-After where asked; then an image."""
        if self.requests[request.path_qs] <= int(request.match_info["times"]):
            after = request.query.get("after")
            return web.Response(status=int(request.match_info["code"]), headers={"Retry-After": after} if after else {})
        return web.Response(body=image(int(request.query.get("number", 7))), content_type="image/jpeg")

    async def silence(self, request: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()

    async def endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
        await response.prepare(request)
        while True:
            await response.write(bytes(65536))

    async def drip(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
        await response.prepare(request)
        while True:
            await response.write(b"\xff")
            await asyncio.sleep(1)

    async def bomb(self, request: web.Request) -> web.Response:
        headers = {"Content-Encoding": "gzip", "Content-Type": "image/jpeg"}
        return web.Response(body=gzip.compress(bytes(10**8)), headers=headers)

    async def html(self, request: web.Request) -> web.Response:
        return web.Response(body=b"<html>sold</html>", content_type="image/jpeg")

    async def short(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "10000"})
        await response.prepare(request)
        await response.write(image(1)[:500])
        assert request.transport is not None
        request.transport.close()
        return response

    async def empty(self, request: web.Request) -> web.Response:
        return web.Response(body=b"", content_type="image/jpeg")

    async def reset(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def placeholder(self, request: web.Request) -> web.Response:
        return web.Response(body=PLACEHOLDER, content_type="image/jpeg")

    async def to(self, request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": request.query["to"]})

    async def chain(self, request: web.Request) -> web.Response:
        left = int(request.match_info["left"])
        return web.Response(status=301, headers={"Location": f"/chain/{left - 1}" if left > 1 else "/image/5.jpg"})

    async def loop(self, request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/loop?back" if not request.query_string else "/loop"})

    async def nowhere(self, request: web.Request) -> web.Response:
        return web.Response(status=302)


async def serve(port_file: Path, port: int = 0) -> None:
    server = Server()
    app = web.Application(middlewares=[server.count])
    app.router.add_get("/stats", server.stats)
    app.router.add_get("/image/{number}.jpg", server.image)
    app.router.add_get("/status/{code}", server.status)
    app.router.add_get("/first/{times}/{code}", server.first_fails)
    app.router.add_get("/chain/{left}", server.chain)
    app.router.add_get("/placeholder/{number}", server.placeholder)
    for name in ("silence", "endless", "drip", "bomb", "html", "short", "empty", "reset", "to", "loop", "nowhere"):
        app.router.add_get(f"/{name}", getattr(server, name))
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    first = web.TCPSite(runner, HOSTS[0], port)
    await first.start()
    port = runner.addresses[0][1]
    for host in HOSTS[1:]:
        await web.TCPSite(runner, host, port).start()
    port_file.write_text(str(port))
    await asyncio.sleep(3600)


@contextmanager
def web_server(folder: Path) -> Iterator[int]:
    """The server as a process; its port."""
    port_file = folder / "port"
    process = subprocess.Popen([sys.executable, __file__, str(port_file)])
    try:
        deadline = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text()):
            assert process.poll() is None, "the web server did not start"
            assert time.monotonic() < deadline, "the web server did not start"
            time.sleep(0.05)
        yield int(port_file.read_text())
    finally:
        process.kill()
        process.wait(30)


def stats(port: int) -> dict:
    """What the server has seen."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=10) as response:
        return json.load(response)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), *map(int, sys.argv[2:])))
