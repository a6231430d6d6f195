"""How good probabilities are: log loss, Brier score and expected calibration error, with the classes weighed equally.

A set's share of generated images is its maker's choice, so each class counts half here, and log-odds are those under equal
shares: a number then means the same on any set.
"""

from collections.abc import Mapping

import numpy as np
from scipy import stats

from rdd.evaluation.means import Column

NUM_BINS = 15
"""Of the calibration error; each holds the same share of the images, so that none is empty."""


def columns_of(log_odds: np.ndarray, labels: np.ndarray) -> dict[str, Column]:
    """Log loss and Brier score of each image by class, and what it adds to the gap of its bin.

    Args:
        log_odds: ``(N,)`` of being generated, where both classes are equally frequent.
        labels: ``(N,)``: 0 real, 1 generated.
    """
    real, generated = labels == 0, labels == 1
    losses = np.logaddexp(0, np.where(generated, -log_odds, log_odds))
    gap = labels - probability(log_odds)
    squares, bins = np.square(gap), bins_of(log_odds)
    return {
        "nll_real": Column(losses, real),
        "nll_generated": Column(losses, generated),
        "brier_real": Column(squares, real),
        "brier_generated": Column(squares, generated),
        "gap_real": Column(gap, real, bins),
        "gap_generated": Column(gap, generated, bins),
    }


def bins_of(log_odds: np.ndarray) -> np.ndarray:
    """``(N,)`` bin of each image, from 0: as equal in number as ties let them be."""
    edges = np.unique(np.quantile(log_odds, np.linspace(0, 1, NUM_BINS + 1)[1:-1]))
    return np.searchsorted(edges, log_odds, side="right").astype(np.int8)


def gaps(means: Mapping[str, np.ndarray]) -> np.ndarray:
    """Share of generated images less mean probability in each bin, times the bin's share of images.

    Args:
        means: by name of a column of :func:`columns_of`, ``(B,)`` of B draws.

    Returns:
        ``(B, bins)``; the sum of their absolute values is the calibration error.
    """
    count = sum(name.startswith("gap_real_") for name in means)
    return np.stack([(means[f"gap_real_{k}"] + means[f"gap_generated_{k}"]) / 2 for k in range(count)], axis=1)


def debiased_error(gap: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Expected calibration error less what chance alone adds to it, at least 0.

    A gap that is estimated with some deviation has too large an absolute value: of a true gap of 0 it is 0.8 deviations. What
    is taken off each bin is that excess, as it would be if the gap found were the true one; where all true gaps are 0, that is
    four tenths of it.

    Args:
        gap: ``(B, bins)`` of :func:`gaps`.
        deviation: ``(bins,)`` standard deviation of a gap, by draws of records.

    Returns:
        ``(B,)``.

    Reference:
        Kumar, Liang & Ma, Verified uncertainty calibration (2019), whose simulated correction this is in closed form.
    """
    return np.maximum(debiased_gaps(gap, deviation).sum(axis=1), 0)


def debiased_gaps(gap: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """``(B, bins)`` of which :func:`debiased_error` is the sum; below 0 where the gap found is less than chance alone makes."""
    size = np.abs(gap)
    ratio = np.divide(size, deviation, out=np.full(size.shape, np.inf), where=deviation > 0)
    with np.errstate(invalid="ignore"):
        excess = 2 * deviation * (stats.norm.pdf(ratio) - np.where(np.isinf(ratio), 0, ratio) * stats.norm.sf(ratio))
    return size - excess


def probability(log_odds: np.ndarray) -> np.ndarray:
    """``(N,)`` in [0, 1] of log-odds."""
    return np.exp(-np.logaddexp(0, -log_odds))
