"""Every error in the same form, whoever raises it."""

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from rdd.serving.web.metrics import Metrics
from rdd.serving.web.refusal import RefusalError, refused


def add_error_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Answer every error with ``{"error": {"reason", "detail"}}``, and count it; failures are :mod:`middleware`'s."""

    async def on_refusal(request: Request, error: Exception) -> Response:
        assert isinstance(error, RefusalError)
        metrics.refusal(error.reason)
        return refused(error)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        reason, detail = {
            404: ("no_route", "there is nothing here; /docs lists what there is"),
            405: ("method", f"{request.method} is not answered here; /docs lists what is"),
        }.get(error.status_code, ("http", str(error.detail)))
        return await on_refusal(request, RefusalError(error.status_code, reason, detail, (error.headers or {}).items()))

    async def on_query(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        detail = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        return await on_refusal(request, RefusalError(400, "query", detail[:300]))

    app.add_exception_handler(RefusalError, on_refusal)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_query)
