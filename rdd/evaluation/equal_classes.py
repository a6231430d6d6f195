"""What is left of an AUC when both classes are made equal: of a detector, and of a probe that is fitted to the equal images.

A detector that falls where a property is taken from both classes may have lived on it, or be bad at images that are treated so.
The probe beside it tells the two apart: it is fitted to treated images, so that it falls only where what tells the classes
apart is gone.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rdd.config import AuditConfig
from rdd.evaluation.bootstrap import difference_without_errors, interval
from rdd.evaluation.cross_validation import CrossValidated, cross_validated, on_features
from rdd.evaluation.robustness import CLEAN, CopyRow


@dataclass(frozen=True)
class ProbeRow:
    """A probe that is fitted to one copy of a set and tested on other records of it."""

    auroc: float
    auroc_interval: list[float] | None
    """95 %, by records; where no pair is mis-ranked, a one-sided bound and 1."""
    difference: float | None
    """Its AUC less that on clean images; None for these."""
    difference_interval: list[float] | None
    """95 %, paired by record; wider by what the bound leaves open where no pair is mis-ranked."""


@dataclass(frozen=True)
class EqualClasses:
    """What a detector and a probe make of each treatment; ``clean`` comes first."""

    detector: dict[str, CopyRow]
    """By treatment; empty where no detector is given."""
    probe: dict[str, ProbeRow]
    detector_images: int
    probe_images: int
    left_out: int
    """Images that some copy lacks."""
    enlarged: dict[str, str] | None
    """Of each class, how many images of how many are smaller than what is cut from them; None where sizes are not known."""

    def to_json(self) -> dict[str, Any]:
        """As it is written down."""
        return asdict(self)


def probe_rows(
    features: Mapping[str, np.ndarray], labels: np.ndarray, records: np.ndarray, config: AuditConfig
) -> dict[str, ProbeRow]:
    """A logistic regression fitted to each copy of the same images anew, in the same folds.

    Args:
        features: by name of the copy, ``(N, width)``; ``clean`` among them.
        labels: ``(N,)``: 0 real, 1 generated; at least two records of each.
        records: ``(N,)`` record of each image.
        config: folds, resamples, seed and the probe's C.

    Returns:
        By name of the copy, in their order.
    """
    found = {name: cross_validated(values, labels, records, config, on_features) for name, values in features.items()}
    return {name: _probe_row(one, None if name == CLEAN else found[CLEAN]) for name, one in found.items()}


def _probe_row(found: CrossValidated, clean: CrossValidated | None) -> ProbeRow:
    if clean is None:
        return ProbeRow(found.auroc, found.interval, None, None)
    ends = difference_without_errors(interval(found.drawn - clean.drawn), (found.auroc, clean.auroc), clean.least)
    return ProbeRow(found.auroc, found.interval, found.auroc - clean.auroc, ends)


def falls(rows: Mapping[str, CopyRow], *, level: float = 0.05) -> dict[str, CopyRow]:
    """Treatments on which a detector does worse than on clean images, beyond chance over all of them (Holm)."""
    return {
        name: row
        for name, row in rows.items()
        if row.difference is not None and row.difference.value < 0 and (row.p_adjusted or 0) < level
    }


def as_markdown(equal: EqualClasses, config: AuditConfig, detector: str) -> str:
    """A table with a line a treatment, and what a reader has to know of it.

    Args:
        equal: what was found.
        config: the treatments.
        detector: what the detector was tried on, as the end of a sentence; not used where there is none.
    """
    treated = {CLEAN: "as they are"} | {name: ", ".join(done) for name, done in config.treatments.items()}
    columns: dict[str, Callable[[str], str]] = {"images": lambda name: name, "done to each of them": treated.__getitem__}
    if equal.detector:
        columns |= {
            "AUC of the detector": lambda name: _value(equal.detector[name].auroc, equal.detector[name].auroc_interval),
            "detector less clean": lambda name: _difference_of(equal.detector[name]),
            "p (Holm)": lambda name: _p(equal.detector[name].p_adjusted),
            "generated found": lambda name: f"{equal.detector[name].true_positive_rate:.1%}",
            "real mistaken": lambda name: f"{equal.detector[name].false_positive_rate:.1%}",
        }
    columns |= {
        "AUC of a fresh probe": lambda name: _value(equal.probe[name].auroc, equal.probe[name].auroc_interval),
        "probe less clean": lambda name: _change(equal.probe[name].difference, equal.probe[name].difference_interval),
    }
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[cell(name) for cell in columns.values()] for name in equal.probe]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"## With both classes made equal\n\n{table}\n\n{_notes(equal, config, detector)}"


def _notes(equal: EqualClasses, config: AuditConfig, detector: str) -> str:
    text = (
        "Every image, real or generated, is treated alike before CLIP sees it: encoded as JPEG of quality "
        f"{config.jpeg_quality} with chroma subsampling 4:2:0, squeezed into a square of {config.resized_to} pixels, cut to "
        f"the {config.cropped_to} x {config.cropped_to} pixels in its middle, or all three. What an earlier encoding or "
        "resizing has left in the pixels stays there.\n\n"
    )
    if equal.enlarged is not None:
        text += (
            f"The shorter side is below {config.cropped_to} pixels in {equal.enlarged['real']} real and "
            f"{equal.enlarged['generated']} generated images: their largest square is enlarged, in which they differ from the "
            "others still.\n\n"
        )
    if equal.detector:
        text += (
            f"The detector is tried on {equal.detector_images} images, {detector}; rates at its threshold, chosen on clean "
            "images. Where it falls, it may have lived on what was taken away, or be bad at images that are treated so. "
        )
    return text + (
        f"The probe is a logistic regression on features.inputs, fitted to treated images and tested on other records of them "
        f"({config.folds} folds, {equal.probe_images} images): where it falls, what tells the classes apart is gone; where it "
        "does not, a detector can be trained without it. Intervals by resampling records, differences paired with the clean "
        f"images; {equal.left_out} images that some copy lacks are left out.\n"
    )


def _value(value: float, ends: list[float] | None) -> str:
    return f"{value:.3f} [unknown]" if ends is None else f"{value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"


def _change(value: float | None, ends: list[float] | None) -> str:
    if value is None:
        return ""
    return f"{value:+.3f} [unknown]" if ends is None else f"{value:+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}]"


def _difference_of(row: CopyRow) -> str:
    return "" if row.difference is None else _change(row.difference.value, row.difference.interval)


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"
