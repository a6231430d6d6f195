"""Until when the images of an encoder's own training reach, where that was published."""

from collections.abc import Iterator, Mapping
from typing import Any

from rdd.clip_weights import TOWER_SHA256
from rdd.serving.answer import Reason

PUBLISHED = {
    "openai": "January 2021",
    "yfcc15m": "March 2015",
    "cc12m": "February 2021",
    "laion400m": "August 2021",
    "laion2b": "March 2022",
    "laion5b": "March 2022",
    "commonpool": "April 2023",
    "datacomp": "April 2023",
    "dfn": "September 2023",
    "metaclip": "September 2023",
}
"""By the beginning of open_clip's tag, when the weights or the set that they were trained on were published."""


def encoder_age(identity: Mapping[str, Any]) -> Iterator[Reason]:
    """One reason where it is known, which no weights of unknown origin have.

    Args:
        identity: fields of an :class:`rdd.encoder_identity.EncoderIdentity`.

    Reference:
        arXiv 2509.12995: detectors on newer encoders win, and collapse on data after the encoder's own cut-off.
    """
    tag = "openai" if identity["weights_sha256"] == TOWER_SHA256 else str(identity["pretrained"])
    date = next((date for beginning, date in PUBLISHED.items() if tag.startswith(beginning)), None)
    if date is not None:
        text = f"the encoder was trained on images from before {date}, so it has seen no generator that came later"
        yield Reason(code="encoder_age", text=text, about="detector")
