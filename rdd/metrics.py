"""Metrics of a detector, from raw logits and in float64.

The field's headline differs in the seventh digit, so nothing here passes through a float32 sigmoid (it ties once a logit
reaches 17) and the count of mis-ranked pairs is given beside the AUC.
"""

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
