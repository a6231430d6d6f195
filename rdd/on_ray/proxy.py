"""What Ray Serve's own door must not tell: at /-/routes it lists the applications to everyone, with or without the token."""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from rdd.serving.web.refusal import RefusalError, refused

CALLBACK = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "rdd.on_ray.proxy:middlewares"}
"""Environment of the processes of Ray, by which Ray Serve 2.60 finds :func:`middlewares`."""


class _WithoutRoutes:
    """Answers 404 in place of the list.

    Args:
        app: Ray Serve's proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/-/routes":
            error = RefusalError(404, "no_route", "there is nothing here; /docs lists what there is")
            await refused(error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """What each proxy of Ray Serve is wrapped in."""
    return [Middleware(_WithoutRoutes)]
