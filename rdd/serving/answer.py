"""The answer to one image: one dataclass, and the JSON schema that is made from it."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["likely_generated", "uncertain", "likely_real"]

NOTICE = "The verdict is a statistical estimate with the stated error rates and must not be the sole basis of a decision."

_DOCUMENTED = {"use_attribute_docstrings": True}
"""Tells pydantic, where it makes a schema, to take the sentences below the fields for their descriptions."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why the verdict deserves less trust than the rates say."""

    code: Literal[
        "small",
        "low_quality",
        "screenshot_like",
        "cropped",
        "animated",
        "no_caption",
        "encoder_age",
        "unlike_training",
    ]
    """One word to count and filter by."""
    text: str
    """A sentence with the figures of this image."""
    about: Literal["image", "detector"]
    """image: this image differs from those that the rates were measured on; detector: holds for every image."""

    __pydantic_config__ = _DOCUMENTED


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """Why there is no verdict."""

    reason: str
    """One word to count by: empty, not_an_image, oversized, undecodable, or why the file could not be read."""
    detail: str
    """What was found."""

    __pydantic_config__ = _DOCUMENTED


@dataclass(frozen=True, kw_only=True)
class ContentCredentials:
    """What the file claims of its origin by C2PA; it does not move the score, nor the score it."""

    state: Literal["none", "present", "unreadable"]
    """none: the file carries no credentials, which says nothing; unreadable: it does, and they could not be read."""
    validation: str | None = None
    """C2PA's validation state: Trusted, Valid (whole, by a signer that is on no trust list) or Invalid (changed or broken)."""
    signer: str | None = None
    """Issuer of the signing certificate."""
    claim_generator: str | None = None
    """The program that made the claim, by its own word."""
    source_types: tuple[str, ...] = ()
    """IPTC digital source types that the claim names, such as trainedAlgorithmicMedia for an image made by a model."""
    detail: str | None = None
    """Why they could not be read, or what failed in their validation."""

    __pydantic_config__ = _DOCUMENTED


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share measured on the detector's test set."""

    value: float | None
    """In [0, 1]; null where it was not measured."""
    interval: tuple[float, float] | None
    """Its 95 % interval, by records."""

    __pydantic_config__ = _DOCUMENTED


@dataclass(frozen=True, kw_only=True)
class AnswerBands:
    """Where the verdict changes, on the scale of the score."""

    likely_real_to: float
    """Score at and below which an image is called likely real."""
    likely_generated_from: float
    """Score at and above which an image is called likely generated."""
    false_positive_rate: float
    """At most this share of real images like those of validation is called likely generated."""
    false_negative_rate: float
    """At most this share of generated images like those of validation is called likely real."""

    __pydantic_config__ = _DOCUMENTED


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is said of one image."""

    image: str | None
    """Its path, address or name as it was given; null where it had none."""
    sha256: str | None
    """Of the file's bytes, 64 hexadecimal digits; null where it could not be read."""
    verdict: Verdict | None
    """By the bands; null where the image could not be read."""
    score: float | None
    """Sigmoid of the detector's logit, in [0, 1]; higher is likelier generated. It is no probability."""
    probability: float | None
    """Calibrated probability of being generated, in [0, 1], where the share of generated images is ``prior``."""
    prior: float
    """Share of generated images, in (0, 1), that the probability assumes."""
    threshold: float
    """Score at and above which an image counts as generated in the two rates."""
    true_positive_rate: Rate
    """Share of the generated test images at or above the threshold."""
    false_positive_rate: Rate
    """Share of the real test images at or above the threshold."""
    bands: AnswerBands
    """Where the verdict changes."""
    model_version: str
    """SHA-256 of the detector: of its weights and of every setting that a score or verdict depends on."""
    reasons: tuple[Reason, ...]
    """Why the verdict deserves less trust than the rates say; empty where nothing was found."""
    content_credentials: ContentCredentials
    """What the file claims of its origin."""
    error: Unreadable | None
    """Why there is no verdict; null where there is one."""
    notice: str = NOTICE
    """What the answer is not."""

    __pydantic_config__ = _DOCUMENTED

    def __post_init__(self) -> None:
        given = (self.verdict, self.score, self.probability)
        assert all(value is None for value in given) if self.error else None not in given
        assert self.score is None or math.isfinite(self.score)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: lists, mappings, texts and numbers."""
        values = asdict(self)
        values["reasons"] = list(values["reasons"])
        values["content_credentials"]["source_types"] = list(self.content_credentials.source_types)
        for name in ("true_positive_rate", "false_positive_rate"):
            interval = values[name]["interval"]
            values[name]["interval"] = None if interval is None else list(interval)
        return values


def answer_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of an answer."""
    from pydantic import TypeAdapter  # a third of a second that no answer needs

    return TypeAdapter(Answer).json_schema()


def classification(answer: Answer) -> list[dict[str, Any]]:
    """An answer as Hugging Face's ``image-classification`` task gives it: ``label`` and ``score``, the likelier one first.

    The scores are the calibrated probabilities, which add up to 1.

    Raises:
        ValueError: the image could not be read.
    """
    if answer.probability is None:
        assert answer.error is not None
        raise ValueError(f"an image must be readable to be classified, got {answer.error.reason}: {answer.error.detail}")
    both = [{"label": "generated", "score": answer.probability}, {"label": "real", "score": 1 - answer.probability}]
    return sorted(both, key=lambda one: -one["score"])
