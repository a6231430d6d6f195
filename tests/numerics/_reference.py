"""Slow, obvious forms of the losses."""

import numpy as np


def cvar_by_sorting(losses: np.ndarray, alpha: float) -> float:
    """Mean of the alpha * n largest losses, with a fractional weight on the boundary."""
    left, total = alpha * len(losses), 0.0
    for loss in sorted(losses, reverse=True):
        weight = min(1.0, left)
        total += weight * loss
        left -= weight
        if left <= 0:
            break
    return total / (alpha * len(losses))


def auc_loss_by_pairs(scores: np.ndarray, labels: np.ndarray, eta: float, p: float) -> tuple[float, np.ndarray]:
    """Value and gradient by the double loop over pairs, summed exactly enough in extended precision."""
    scores = scores.astype(np.longdouble)
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    gradient = np.zeros(len(scores), dtype=np.longdouble)
    value = np.longdouble(0)
    for i in positive:
        violation = np.maximum(eta - (scores[i] - scores[negative]), 0)
        value += (violation**p).sum()
        slope = p * violation ** (p - 1)
        gradient[i] -= slope.sum()
        gradient[negative] += slope
    pairs = max(len(positive) * len(negative), 1)
    return float(value / pairs), (gradient / pairs).astype(np.float64)
