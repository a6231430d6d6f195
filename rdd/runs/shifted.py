"""An evaluation with a detector's probabilities shifted to a new domain, apart from the one as the detector stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from rdd.calibration import Calibration
from rdd.evaluation.report import evaluate
from rdd.evaluation.scores import Scored, scored_images
from rdd.evaluation.shift import fit_shift
from rdd.evaluation.shift_labels import labelled_images
from rdd.features import FeatureTable
from rdd.features.index import python_strings

_DEPENDING = (
    *("threshold", "accuracy", "real_accuracy", "generated_accuracy", "true_positive_rate", "false_positive_rate"),
    *("balanced_accuracy", "precision_at_1_percent_generated", "nll", "brier", "calibration_error"),
    *("reliability", "bands", "coverage"),
)
"""Of an evaluation, what a shift changes; the others depend on the order of the logits alone."""
_DEPENDING_BY_GROUP = ("true_positive_rate", "balanced_accuracy", "images")


@dataclass(frozen=True)
class ShiftLabels:
    """Images whose labels fit a shift, and those that are left out of the numbers for it."""

    labelled: np.ndarray
    """``(N,)`` bool."""
    left_out: np.ndarray
    """``(N,)`` bool: all images of their records."""

    def counted(self, scored: Scored) -> Scored:
        """The images that the numbers are of."""
        return scored.of(~self.left_out)


def read_shift_labels(path: str, table: FeatureTable, images: Tensor) -> ShiftLabels:
    """The images of a set that a file of labels names.

    Args:
        path: the file, see :func:`rdd.evaluation.shift_labels.labelled_images`.
        table: the features.
        images: ``(N,)`` of it, as they are evaluated.

    Raises:
        ValueError: the file can not be used, or leaves no image of a class to be evaluated.
    """
    known = scored_images(np.zeros(len(images)), table, images)
    ids = table.record_ids.take(pa.array(table.record_of[images].numpy()))
    labelled = labelled_images(path, known, python_strings(ids))
    labels = ShiftLabels(labelled, np.isin(known.records, known.records[labelled]))
    left = [int((~labels.left_out & (known.labels == label)).sum()) for label in (0, 1)]
    if 0 in left:
        raise ValueError(
            f"{path} must leave images of both classes to be evaluated, since those of labelled records are left out, "
            f"got {left[0]} real and {left[1]} generated images; label fewer records"
        )
    return labels


def shift_report(
    scored: Scored,
    labels: ShiftLabels,
    *,
    calibration: Calibration,
    report: Mapping[str, Any],
    resamples: int,
    seed: int,
    **known: Any,
) -> dict[str, Any]:
    """The shift that the labels call for, and what it changes.

    Args:
        scored: all images, the labelled ones among them.
        labels: which these are.
        calibration: of the detector.
        report: the evaluation of the counted images as the detector stands.
        resamples: bootstrap resamples of records.
        seed: of the resamples.
        known: as for :func:`rdd.evaluation.report.evaluate`.

    Returns:
        ``log_odds`` with its interval, ``labels`` (images a class), ``images_left_out``, and of the same images
        ``without_shift`` and ``with_shift``: all numbers of the evaluation that depend on threshold or probability. Their
        intervals are those of the images for the shift as it is; its own uncertainty is in its own interval.

    Raises:
        ValueError: the detector's log-odds do not rise with its logit.
    """
    fitted = scored.of(labels.labelled)
    shift = fit_shift(fitted, calibration.log_odds(fitted.logits), resamples=resamples, seed=seed)
    shifted = calibration.shifted(shift.log_odds)
    moved = evaluate(labels.counted(scored), calibration=shifted, resamples=resamples, seed=seed, **known)
    return {
        "log_odds": shift.log_odds,
        "log_odds_interval": shift.interval,
        "labels": shift.labels,
        "images_left_out": int(labels.left_out.sum()),
        "without_shift": _depending(report),
        "with_shift": _depending(moved),
    }


def _depending(report: Mapping[str, Any]) -> dict[str, Any]:
    """What depends on threshold or probability, with the intervals."""
    names = [name for key in _DEPENDING for name in (key, f"{key}_interval") if name in report]
    groups = {
        kind: {group: {name: row[name] for name in _DEPENDING_BY_GROUP} for group, row in report[kind].items()}
        for kind in ("by_generator", "by_family")
    }
    return {name: report[name] for name in names} | groups
