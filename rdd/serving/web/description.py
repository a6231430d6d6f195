"""What the server says of itself at /model."""

from dataclasses import asdict
from typing import Any

from rdd.data.decode import FORMATS
from rdd.serving.answer import NOTICE, Unreadable
from rdd.serving.content_credentials import NO_CREDENTIALS
from rdd.serving.predictor import Predictor
from rdd.serving.prepare import Prepared
from rdd.serving.web.settings import WebSettings

RETENTION = (
    "Nothing of an upload is kept: image, name and caption stay in memory until the answer is sent, and stand in no log."
)

_SHARED = ("model_version", "bands", "prior", "threshold", "true_positive_rate", "false_positive_rate")
"""Fields that an answer has, too, and that are the same in all answers of a detector."""


def described(predictor: Predictor) -> dict[str, Any]:
    """The detector: what all its answers have in common, and its encoder."""
    nothing = Unreadable(reason="empty", detail="asked for what all answers have in common")
    image = Prepared(name=None, sha256=None, pixels=None, credentials=NO_CREDENTIALS, error=nothing)
    answer = predictor.answer(image, None).to_dict()
    detector = predictor.detector
    captions = {"none": "ignored"}.get(detector.text_mode, "needed" if detector.needs_text else "used")
    return {name: answer[name] for name in _SHARED} | {"encoder": detector.encoder_identity, "captions": captions}


def limits(settings: WebSettings) -> dict[str, Any]:
    """What the server takes."""
    known = asdict(settings)
    return {name: known[name] for name in ("max_bytes", "max_pixels")} | {
        "formats": list(FORMATS),
        "notice": NOTICE,
        "token_required": bool(settings.token),
        "urls": bool(settings.fetch_contact),
        "retention": RETENTION,
    }
