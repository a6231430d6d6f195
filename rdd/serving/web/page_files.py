"""The files of the page, as they are."""

from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from rdd.serving.web.refusal import RefusalError

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
"""By route, the file in the folder ``page`` and its type."""


def page_routes() -> APIRouter:
    """A route for each file."""
    router = APIRouter()
    for route, (name, kind) in _FILES.items():
        router.add_api_route(route, _sender(name, kind), methods=["GET"], include_in_schema=False)
    return router


def _sender(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return Response(_content(name), media_type=kind)

    return send


@cache
def _content(name: str) -> bytes:
    """Of a file of the page.

    Raises:
        RefusalError: 404, the page is not installed.
    """
    place = files("rdd.serving.web") / "page" / name
    if not place.is_file():
        raise RefusalError(404, "no_page", f"{name} of the page is not installed; the routes of /docs work without it")
    return place.read_bytes()
