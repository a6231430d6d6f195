"""What a page is made of: results as the stages wrote them, and what is known of where they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rdd.calibration import Calibration
from rdd.evaluation.scores import Scored
from rdd.report.pictures import Key
from rdd.report.worst import WorstImage


@dataclass(frozen=True)
class Missing:
    """A section that has nothing to show."""

    reason: str
    """One sentence."""
    command: str = ""
    """What a person types to have it."""


@dataclass(frozen=True)
class Content:
    """All of a page."""

    name: str
    """Of the directory."""
    kind: str
    """``training run`` or ``evaluation``."""
    tested_on: str
    """The images, in words: a part of which features."""
    report: Mapping[str, Any]
    """Of :func:`rdd.evaluation.report.evaluate`; one of an earlier version lacks some of it."""
    scored: Scored
    """The logits of the images."""
    calibration: Calibration
    """Of the detector."""
    text_mode: str
    """Of the detector; ``none`` for one that sees no captions."""
    resamples: int
    """Of records, behind the intervals of the report."""
    audit: Mapping[str, Any] | Missing
    """What an audit found (``audit.json``)."""
    robustness: Mapping[str, Any] | Missing
    """What a try on degraded copies found (``robustness.json``)."""
    worst: Mapping[int, Sequence[WorstImage]]
    """By label, 0 real and 1 generated."""
    pictures: Mapping[Key, str]
    """``data:`` addresses of thumbnails."""
    no_pictures: Missing | None
    """Why there are none; None where they were looked for and found."""
    history: Sequence[Mapping[str, float]] = ()
    """Epochs of the training; none of an evaluation."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Where the detector and the features come from, by what it is."""
    changed: Sequence[tuple[str, str, str]] = ()
    """Settings that differ from their defaults: dotted path, value, default."""

    @property
    def a_kind(self) -> str:
        """The kind with its article."""
        return f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind}"
