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
    test = metrics["test"]
    names = ("auroc", "misranked_pairs", "average_precision", "balanced_accuracy", "equal_error_rate", "tpr_at_1_percent_fpr")
    return rounded(
        {f"test/{name}": test[name] for name in names if test[name] is not None}
        | {
            "test/worst_generator_auroc": test["worst_generator"]["auroc"],
            "best_epoch": metrics["best_epoch"],
            "val/best_auroc": metrics["validation_auroc"],
        }
    )


def rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    """The numbers as a table shows them."""
    return {
        name: round(value, _DECIMALS) if "auroc" in name else float(f"{value:.{_DIGITS}g}") for name, value in numbers.items()
    }
