"""The leak audit: how well each property of files and captions tells real from generated images, without a look at pixels.

A detector is trained to tell them apart by any means. Where the classes differ in format, size or words, a high AUC may be
owed to that, and falls where it is gone. So a simple classifier is fitted to each property alone, on some records, and ranks
the images of others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdd.config import AuditConfig
from rdd.evaluation.cross_validation import Values, cross_validated
from rdd.evaluation.leak_properties import PROPERTIES, Property
from rdd.features.image_facts import ImageFacts


@dataclass(frozen=True)
class Finding:
    """What an audit has found of one property."""

    name: str
    question: str
    auroc: float | None
    """Cross-validated by records; None where it can not be told."""
    interval: list[float] | None
    """95 %, by resampling records; where no pair is mis-ranked, a one-sided bound and 1."""
    red: bool
    """Whether the lower end of the interval lies above ``audit.red_above``."""
    real_images: int
    generated_images: int
    """Of which the property is known."""
    unknown: str | None
    """Why there is no AUC; None where there is one."""


def columns_needed(properties: Sequence[Property] = PROPERTIES) -> list[str]:
    """Columns of the files of features that the properties are computed from."""
    return list(dict.fromkeys(name for one in properties for name in one.columns))


def audit(images: ImageFacts, config: AuditConfig, properties: Sequence[Property] = PROPERTIES) -> list[Finding]:
    """Ask each property whether it tells the classes apart.

    Args:
        images: what is known of them, with the columns of :func:`columns_needed`.
        config: folds, resamples, seed, and from where a leak is red.
        properties: which.

    Returns:
        A finding each, in their order.
    """
    return [_finding(one, images, config) for one in properties]


def _finding(one: Property, images: ImageFacts, config: AuditConfig) -> Finding:
    values = one.values(images)
    known = _known(values)
    labels, records = images.labels[known], images.record_of[known]
    real, generated = int((labels == 0).sum()), int((labels == 1).sum())
    auc, bounds, why = None, None, _why_unknown(labels, records)
    if why is None:
        found = cross_validated(values[known], labels, records, config, one.fit)
        auc, bounds = found.auroc, found.interval
    red = bounds is not None and bounds[0] > config.red_above
    return Finding(one.name, one.question, auc, bounds, red, real, generated, why)


def _known(values: Values) -> np.ndarray:
    """``(N,)`` bool: of which images there is a value."""
    if values.dtype == object:
        return np.array([value is not None for value in values], dtype=bool)
    return ~np.isnan(values).any(axis=1)


def _why_unknown(labels: np.ndarray, records: np.ndarray) -> str | None:
    """Why images can not tell of a property, if they can not."""
    if not len(labels):
        return "the features do not hold it"
    counts = [len(np.unique(records[labels == label])) for label in (0, 1)]
    for name, count in zip(("real", "generated"), counts, strict=True):
        if count < 2:
            return f"{count or 'no'} record{'' if count == 1 else 's'} with a {name} image of which it is known"
    return None


def red_leaks(findings: Sequence[Finding]) -> list[str]:
    """Names of the properties that are red leaks."""
    return [one.name for one in findings if one.red]


def as_markdown(findings: Sequence[Finding], config: AuditConfig) -> str:
    """The findings as a table, and what a reader has to know of it."""
    columns: dict[str, Callable[[Finding], str]] = {
        "property": lambda one: one.name,
        "AUC": lambda one: "" if one.auroc is None else f"{one.auroc:.3f}",
        "95 % interval": lambda one: "unknown" if one.interval is None else f"[{one.interval[0]:.3f}, {one.interval[1]:.3f}]",
        "leak": lambda one: "**red**" if one.red else "",
        "real": lambda one: f"{one.real_images:,}",
        "generated": lambda one: f"{one.generated_images:,}",
        "what it is": lambda one: one.question if one.unknown is None else f"{one.question}; unknown: {one.unknown}",
    }
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[cell(one) for cell in columns.values()] for one in findings]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        f"{table}\n\nAUC of a small classifier that sees this property alone, cross-validated over {config.folds} folds by "
        "record; 0.5 tells nothing. Red: the lower end of the interval, by resampling records, lies above "
        f"{config.red_above:g}. What a detector finds in images may be owed to a red leak.\n"
    )


def as_numbers(findings: Sequence[Finding]) -> dict[str, dict[str, Any]]:
    """By name, what was found."""
    return {one.name: {name: value for name, value in vars(one).items() if name != "name"} for one in findings}


def findings_of(numbers: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """What :func:`as_numbers` wrote down."""
    return [Finding(name=name, **found) for name, found in numbers.items()]
