"""Metrics of a set of logits: overall, by generator, at a stored threshold, with intervals."""

from typing import Any

import numpy as np

from rdd.evaluation.bootstrap import RecordWeightedAuc, bound_without_errors, interval, resampled_counts
from rdd.evaluation.scores import Scored
from rdd.metrics import auroc, average_precision, equal_error_rate, rate_above, true_positive_rate


def evaluate(scored: Scored, *, threshold: float, resamples: int, seed: int) -> dict[str, Any]:
    """Everything that is reported of a test set.

    Args:
        scored: its logits; both classes must be present.
        threshold: logit at and above which an image is called generated, fixed elsewhere.
        resamples: bootstrap resamples of records.
        seed: of the resamples.

    Returns:
        ``auroc`` with ``auroc_interval`` (95 %, by records; where no pair is mis-ranked, a one-sided bound and 1; null where a
        class is of one record),
        ``misranked_pairs`` of ``pairs``, ``average_precision``, ``accuracy`` and ``balanced_accuracy`` at ``threshold``,
        ``tpr_at_1_percent_fpr`` (null where the real images do not resolve it), ``equal_error_rate``, counts,
        ``by_generator`` (each against all real images) and ``worst_generator``.

    Raises:
        ValueError: a class is absent.
    """
    overall = auroc(scored.logits, scored.labels)
    real, images_of = scored.labels == 0, scored.generated_by()
    groups = np.zeros(len(real), dtype=np.int16)
    for number, images in enumerate(images_of.values()):
        groups[images] = number
    aucs = RecordWeightedAuc(scored.logits, scored.labels, scored.records, groups)
    right, pairs = aucs.ranked_right(np.ones(aucs.records, dtype=np.int32))
    drawn = np.array([aucs(counts) for counts in resampled_counts(aucs.records, resamples=resamples, seed=seed)])
    intervals = [interval(values) for values in drawn.T]
    for number, images in enumerate([~real, *images_of.values()]):
        if right[number] == pairs[number]:
            keep = real | images
            intervals[number] = [bound_without_errors(scored.records[keep], scored.labels[keep]), 1.0]
        elif min(len(np.unique(scored.records[which])) for which in (real, images)) < 2:
            intervals[number] = None  # there is nothing to draw from
    by_generator: dict[str, dict[str, Any]] = {
        name: {
            "auroc": float(1 - (pairs[number] - right[number]) / pairs[number]),
            "auroc_interval": intervals[number],
            "true_positive_rate": rate_above(scored.logits[images], threshold),
            "images": int(images.sum()),
        }
        for number, (name, images) in enumerate(images_of.items(), start=1)
    }
    tpr, fpr = (rate_above(scored.logits[which], threshold) for which in (~real, real))
    correct = (scored.logits >= threshold) == (scored.labels == 1)
    worst = min(by_generator, key=lambda name: by_generator[name]["auroc"])
    return {
        "auroc": overall,
        "auroc_interval": intervals[0],
        "misranked_pairs": float(pairs[0] - right[0]),
        "pairs": int(pairs[0]),
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
        "records": aucs.records,
        "by_generator": by_generator,
        "worst_generator": {"name": worst} | {key: by_generator[worst][key] for key in ("auroc", "auroc_interval")},
    }
