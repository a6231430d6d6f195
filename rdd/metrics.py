"""Metrics of a detector, from raw logits and in float64.

Published AUCs differ in the seventh digit only. So nothing here passes through a float32 sigmoid, which is exactly 1 for all
logits above 17 and would make ties, and the number of mis-ranked pairs is given beside the AUC.
"""

import math

import numpy as np
from numpy.typing import ArrayLike


def auroc(logits: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: the share of pairs ranked right, ties counted half.

    Args:
        logits: ``(N,)``, larger means generated.
        labels: ``(N,)``: 0 real, 1 generated.

    Raises:
        ValueError: a class is absent, or a logit is NaN.

    Example:
        >>> auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        0.75
    """
    real, generated = _classes(logits, labels)
    return 1.0 - misranked_pairs(logits, labels) / (len(real) * len(generated))


def misranked_pairs(logits: ArrayLike, labels: ArrayLike) -> float:
    """Pairs of a generated and a real image in which the real one scores higher; a tie is half a pair."""
    real, generated = _classes(logits, labels)
    real = np.sort(real)
    above = len(real) - np.searchsorted(real, generated, side="right")
    tied = np.searchsorted(real, generated, side="right") - np.searchsorted(real, generated, side="left")
    return float(above.sum() + 0.5 * tied.sum())


def selection_score(auroc: float, loss: float) -> float:
    """AUC and loss as one number, for a scheduler that compares no pairs: of equal AUCs the lower loss is the larger number.

    Args:
        auroc: of the validation part.
        loss: of the validation part, at least 0.

    Returns:
        The AUC less at most 1e-12, by the logarithm of the loss between 1e-20 and 1e20; AUCs of up to 5e11 pairs that differ do
        so by more.
    """
    decades = math.log10(min(max(loss, 1e-20), 1e20))
    return auroc - 1e-12 * (decades + 20) / 40


def average_precision(logits: ArrayLike, labels: ArrayLike) -> float:
    """Area under the precision-recall curve as a step function, by scikit-learn."""
    from sklearn.metrics import average_precision_score  # takes a second to import, which training workers need not wait for

    _classes(logits, labels)
    return float(average_precision_score(labels, logits))


def true_positive_rate(logits: ArrayLike, labels: ArrayLike, *, at: float) -> float | None:
    """Share of generated images found when at most a share ``at`` of the real ones is called generated.

    Returns:
        None where there are fewer than 1 / ``at`` real images: they can not resolve the rate.
    """
    real, generated = _classes(logits, labels)
    if len(real) * at < 1:
        return None
    return float((generated > threshold_at(real, at)).mean())


def threshold_at(real: ArrayLike, rate: float) -> float:
    """The smallest logit that at most a share ``rate`` of the real images lies above.

    Args:
        real: ``(N,)`` logits of real images, at least one.
        rate: false-positive rate in [0, 1).
    """
    ordered = np.sort(np.asarray(real, dtype=np.float64))[::-1]
    return float(ordered[int(np.floor(rate * len(ordered) + 1e-9))])


def rate_above(logits: ArrayLike, threshold: float) -> float:
    """Share of logits at or above a threshold."""
    return float((np.asarray(logits) >= threshold).mean())


def equal_error_rate(logits: ArrayLike, labels: ArrayLike) -> float:
    """Error rate where misses and false alarms are equally frequent, between two thresholds by straight line."""
    real, generated = (np.sort(part) for part in _classes(logits, labels))
    thresholds = np.unique(np.concatenate([real, generated]))
    thresholds = np.append(thresholds, np.inf)
    false_alarms = 1 - np.searchsorted(real, thresholds, side="left") / len(real)
    misses = np.searchsorted(generated, thresholds, side="left") / len(generated)
    after = int(np.argmax(misses >= false_alarms))
    if after == 0:
        return float((misses[0] + false_alarms[0]) / 2)
    gap = (false_alarms - misses)[[after - 1, after]]
    share = gap[0] / (gap[0] - gap[1])
    return float(false_alarms[after - 1] + share * (false_alarms[after] - false_alarms[after - 1]))


def _classes(logits: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if logits.shape != labels.shape or logits.ndim != 1:
        raise ValueError(f"logits and labels must be 1-D of one length, got {logits.shape} and {labels.shape}")
    if np.isnan(logits).any():
        raise ValueError("logits must be numbers, got NaN")
    real, generated = logits[labels == 0], logits[labels == 1]
    if not len(real) or not len(generated):
        raise ValueError(f"both classes must be present, got {len(real)} real and {len(generated)} generated images")
    return real, generated
