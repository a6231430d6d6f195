"""The files of the page, as they are."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
"""By the end of a file's name."""


def page_routes() -> APIRouter:
    """A route for each file in the folder ``page``; its ``index.html`` is at ``/``."""
    router = APIRouter()
    for place in (files("rdd.serving.web") / "page").iterdir():
        kind = _TYPES.get(place.name.rpartition(".")[2])
        if kind is not None:  # an editor may have left something else
            route = "/" if place.name == "index.html" else f"/{place.name}"
            router.add_api_route(route, _sender(place.read_bytes(), kind), methods=["GET"], include_in_schema=False)
    return router


def _sender(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8")

    return send
