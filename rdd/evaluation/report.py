"""Metrics of a set of logits: overall, by generator, at a stored threshold, with intervals."""

from typing import Any

import numpy as np

from rdd.evaluation.bootstrap import WeightedAuc, bound_without_errors, interval, resampled_counts
from rdd.evaluation.scores import Scored
from rdd.metrics import auroc, average_precision, equal_error_rate, misranked_pairs, rate_above, true_positive_rate


def evaluate(scored: Scored, *, threshold: float, resamples: int, seed: int) -> dict[str, Any]:
    """Everything that is reported of a test set.

    Args:
        scored: its logits; both classes must be present.
        threshold: logit at and above which an image is called generated, fixed elsewhere.
        resamples: bootstrap resamples of records.
        seed: of the resamples.

    Returns:
        ``auroc`` with ``auroc_interval`` (95 %, by records; where no pair is mis-ranked, a one-sided bound and 1),
        ``misranked_pairs`` of ``pairs``, ``average_precision``, ``accuracy`` and ``balanced_accuracy`` at ``threshold``,
        ``tpr_at_1_percent_fpr`` (null where the real images do not resolve it), ``equal_error_rate``, counts,
        ``by_generator`` (each against all real images) and ``worst_generator``.

    Raises:
        ValueError: a class is absent.
    """
    real = scored.labels == 0
    names = sorted(set(scored.generators[~real].tolist()))
    keeps = {"": np.ones(len(real), dtype=bool)} | {name: real | (scored.generators == name) for name in names}
    values = {name: auroc(scored.logits[keep], scored.labels[keep]) for name, keep in keeps.items()}
    intervals = _intervals(scored, keeps, resamples, seed)
    tpr, fpr = (rate_above(scored.logits[which], threshold) for which in (~real, real))
    correct = (scored.logits >= threshold) == (scored.labels == 1)
    worst = min(names, key=lambda name: values[name])
    return {
        "auroc": values[""],
        "auroc_interval": intervals[""],
        "misranked_pairs": misranked_pairs(scored.logits, scored.labels),
        "pairs": int(real.sum()) * int((~real).sum()),
        "average_precision": average_precision(scored.logits, scored.labels),
        "threshold": threshold,
        "accuracy": float(correct.mean()),
        "balanced_accuracy": (tpr + 1 - fpr) / 2,
        "true_positive_rate": tpr,
        "false_positive_rate": fpr,
        "tpr_at_1_percent_fpr": true_positive_rate(scored.logits, scored.labels, at=0.01),
        "equal_error_rate": equal_error_rate(scored.logits, scored.labels),
        "real_images": int(real.sum()),
        "generated_images": int((~real).sum()),
        "records": len(np.unique(scored.records)),
        "by_generator": {
            name: {
                "auroc": values[name],
                "auroc_interval": intervals[name],
                "true_positive_rate": rate_above(scored.logits[scored.generators == name], threshold),
                "images": int((scored.generators == name).sum()),
            }
            for name in names
        },
        "worst_generator": {"name": worst, "auroc": values[worst], "auroc_interval": intervals[worst]},
    }


def _intervals(scored: Scored, keeps: dict[str, np.ndarray], resamples: int, seed: int) -> dict[str, list[float] | None]:
    """Interval of the AUC for each mask in ``keeps``, all from one set of resamples, so that they can be compared."""
    aucs = {name: WeightedAuc(scored.logits[keep], scored.labels[keep]) for name, keep in keeps.items()}
    drawn: dict[str, list[float]] = {name: [] for name in keeps}
    for counts in resampled_counts(scored.records, resamples=resamples, seed=seed):
        for name, keep in keeps.items():
            drawn[name].append(aucs[name](counts[keep]))
    intervals = {name: interval(np.array(values)) for name, values in drawn.items()}
    for name, keep in keeps.items():
        if misranked_pairs(scored.logits[keep], scored.labels[keep]) == 0:
            intervals[name] = [bound_without_errors(scored.records[keep], scored.labels[keep]), 1.0]
    return intervals
