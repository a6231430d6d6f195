"""What is logged to MLflow of a training run: the metrics of each epoch, and the final results.

Numbers are rounded so that they can be compared by eye in a table; the exact ones are in the run directory.
"""

import math
from collections.abc import Mapping
from typing import Any

from rdd.tracking.tracker import Tracker

_DECIMALS = 8
"""Of an AUC, whose differences lie there."""
_DIGITS = 6
"""Significant digits of any other number."""
_REPORTED = (
    "auroc",
    "misranked_pairs",
    "average_precision",
    "real_accuracy",
    "generated_accuracy",
    "balanced_accuracy",
    "true_positive_rate",
    "false_positive_rate",
    "precision_at_1_percent_generated",
    "tpr_at_1_percent_fpr",
    "fpr_at_95_percent_tpr",
    "equal_error_rate",
    "calibration_error",
    "nll",
    "brier",
)
"""Numbers of a report that are compared."""
_OF_BANDS = (
    "false_positive_rate",
    "false_negative_rate",
    "uncertain",
    "real_uncertain",
    "generated_uncertain",
    "real_among_likely_generated",
    "generated_among_likely_real",
    "precision_at_1_percent_generated",
)
"""The same of a detector's bands."""


def log_epoch(tracker: Tracker, metrics: Mapping[str, float]) -> None:
    """Log an epoch as the engine reports it, a NaN (nothing to measure) left out.

    Args:
        tracker: of the run.
        metrics: of the epoch, its number under ``epoch``.
    """
    numbers = {name: value for name, value in metrics.items() if name != "epoch" and not math.isnan(value)}
    tracker.metrics(rounded(numbers), step=int(metrics["epoch"]))


def result_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a finished run that are compared in MLflow.

    Args:
        metrics: what ``metrics.json`` of a training run holds.
    """
    return rounded(
        report_metrics(metrics["test"], "test")
        | {"best_epoch": metrics["best_epoch"], "val/best_auroc": metrics["validation_auroc"]}
    )


def report_metrics(report: Mapping[str, Any], part: str) -> dict[str, float]:
    """The numbers of a report of :func:`rdd.evaluation.report.evaluate`, the ends of an interval beside each.

    Args:
        report: with whatever numbers it has; a null is left out.
        part: of the features, the metrics' prefix.

    Returns:
        By name ``<part>/<metric>``, ``<part>/<metric>_low`` and ``<part>/<metric>_high``; ``<part>/worst_generator_auroc``;
        ``<part>/bands/...`` and ``<part>/coverage_<level>/...`` of a detector that has bands; ``<part>/<kind>/...`` of seen and
        unseen generators where both are there; and ``<part>/shift/log_odds`` and ``<part>/with_shift/...`` of a shift.
    """
    numbers = _with_ends({name: report.get(name) for name in _REPORTED}, report) | _of_bands(report)
    worst = report["worst_generator"]
    numbers |= _with_ends(
        {"worst_generator_auroc": worst["auroc"]}, {"worst_generator_auroc_interval": worst["auroc_interval"]}
    )
    if (shift := report.get("shift")) is not None:
        moved = _with_ends({name: shift["with_shift"].get(name) for name in _REPORTED}, shift["with_shift"])
        numbers |= {f"shift/{name}": value for name, value in _with_ends({"log_odds": shift["log_odds"]}, shift).items()}
        numbers |= {f"with_shift/{name}": value for name, value in (moved | _of_bands(shift["with_shift"])).items()}
    novelty = report.get("novelty", {})
    for kind, values in novelty.items() if len(novelty) > 1 else ():
        apart = _with_ends({name: values[name] for name in ("auroc", "mean_auroc", "worst_auroc")}, values)
        numbers |= {f"{kind}/{name}": value for name, value in apart.items()}
    return {f"{part}/{name}": value for name, value in numbers.items()}


def _of_bands(report: Mapping[str, Any]) -> dict[str, float]:
    bands = report.get("bands") or {}
    numbers = {f"bands/{name}": value for name, value in _with_ends({n: bands.get(n) for n in _OF_BANDS}, bands).items()}
    for level, row in report.get("coverage", {}).items():
        covered = _with_ends({f"{name}_coverage": row[f"{name}_coverage"] for name in ("real", "generated")}, row)
        numbers |= {f"coverage_{level}/{name}": value for name, value in covered.items()}
    return numbers


def _with_ends(values: Mapping[str, float | None], intervals: Mapping[str, Any]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if value is None:
            continue
        numbers[name] = value
        if (ends := intervals.get(f"{name}_interval")) is not None:
            numbers |= {f"{name}_low": ends[0], f"{name}_high": ends[1]}
    return numbers


def rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    """The numbers as a table shows them."""
    return {
        name: round(value, _DECIMALS) if "auroc" in name else float(f"{value:.{_DIGITS}g}") for name, value in numbers.items()
    }
