"""POST /predict: an image in, what is said of it out."""

import dataclasses
from contextlib import nullcontext
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from rdd.serving.answer import Answer, Unreadable, classification
from rdd.serving.web.addresses import MAX_REQUEST, AddressReader
from rdd.serving.web.backend import Backend
from rdd.serving.web.body import Upload, media_type, read_address, read_upload
from rdd.serving.web.gate import Gate
from rdd.serving.web.metrics import Metrics
from rdd.serving.web.refusal import RefusalError
from rdd.serving.web.settings import WebSettings

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "required": ["image"],
        "additionalProperties": False,
        "properties": {
            "image": {"type": "string", "format": "binary", "description": "The image file."},
            "caption": {"type": "string", "description": "Its prompt, for detectors that look at captions."},
        },
    }
}
_ADDRESS = {
    "schema": {
        "type": "object",
        "required": ["url"],
        "additionalProperties": False,
        "properties": {"url": {"type": "string"}, "caption": {"type": "string"}},
        "description": "Only where the server was told to fetch addresses.",
    }
}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "The bytes of the image as they are, with its name in X-Image-Name (percent-encoded UTF-8) if it has "
        "one; or a form with the file in the field image.",
        "content": {"image/*": _BINARY, "multipart/form-data": _FORM, "application/json": _ADDRESS},
    }
}


_EXPLAINED = 2
"""Explanations at the same time: each takes fifty passes of the encoder, for which others wait."""


class ErrorBody(BaseModel):
    """Why a request got no answer."""

    error: Unreadable


class Wishes(BaseModel):
    """What may stand behind the question mark."""

    model_config = ConfigDict(extra="forbid")

    explain: bool = False
    """Also which training records are nearest, and where the image must be covered for the score to fall."""
    format: Literal["answer", "huggingface"] = "answer"
    """huggingface: labels and scores as its task image-classification gives them."""


_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody, "description": what}
    for code, what in (
        (400, "The form, the query or the name is not as it must be."),
        (401, "The token is missing or wrong."),
        (403, "Sent by a page of another site, or an address where none are fetched."),
        (408, "The body came too slowly."),
        (413, "The image has too many bytes."),
        (415, "The body is packed (Content-Encoding)."),
        (422, "The body is no image that can be used; the reason is one word."),
        (429, "Too much is waiting; Retry-After says for how long."),
        (503, "The server is ending or not ready."),
    )
}


def predict_route(
    backend: Backend, settings: WebSettings, gate: Gate, metrics: Metrics, addresses: "AddressHolder"
) -> APIRouter:
    """The route."""
    router, explaining = APIRouter(), Gate(_EXPLAINED, settings.retry_after_s)

    async def received(request: Request) -> Upload:
        if media_type(request) == "application/json":
            assert addresses.reader is not None
            addresses.reader.check()
            named = await read_address(request, max_bytes=MAX_REQUEST, timeout_s=settings.body_timeout_s)
            return await addresses.reader.read(named)
        return await read_upload(request, max_bytes=settings.max_bytes, timeout_s=settings.body_timeout_s)

    @router.post("/predict", response_model=Answer, responses=_ERRORS, openapi_extra=_BODY)
    async def predict(request: Request, wishes: Annotated[Wishes, Query()]) -> JSONResponse:
        """What is said of one image: verdict, score, probability, the detector's error rates, and what speaks against them.

        Nothing of an upload is kept: image, name and caption stay in memory until the answer is sent, and stand in no log.
        """
        if wishes.explain and wishes.format != "answer":
            raise RefusalError(400, "query", "explain must go with format=answer, got huggingface; leave one of them out")
        with gate.passed(), explaining.passed() if wishes.explain else nullcontext():
            upload = await received(request)
            image = await backend.prepare(upload.data, upload.name)
            if image.error is not None:
                raise _unusable(image.error)
            answer = await backend.answer(image, upload.caption)
            if answer.error is not None:
                raise _unusable(answer.error)
            explanation = await backend.explain(image, upload.caption) if wishes.explain else None
        metrics.image(answer, len(upload.data))
        if wishes.format == "huggingface":
            return JSONResponse(classification(answer))
        said = answer.to_dict()
        return JSONResponse(said if explanation is None else {"answer": said, "explanation": explanation})

    return router


@dataclasses.dataclass
class AddressHolder:
    """Where the application's beginning leaves the reader of addresses for its routes."""

    reader: AddressReader | None = None


def _unusable(error: Unreadable) -> RefusalError:
    return RefusalError(422, error.reason, " ".join(error.detail.split())[:500])
