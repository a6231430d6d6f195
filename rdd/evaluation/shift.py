"""One number that fits a detector's probabilities to a new domain: what is added to the log-odds of each of its images."""

from dataclasses import dataclass

import numpy as np

from rdd.evaluation.bootstrap import blocks_of_counts, interval
from rdd.evaluation.probabilities import probability
from rdd.evaluation.scores import Scored

PRIOR_DEVIATION = 10.0
"""Standard deviation, in log-odds, of the normal distribution that shifts are taken to have before a label is seen, with the
weight of one label. It decides where labels are silent: with classes far apart many shifts are as good as each other."""

_STEPS, _PRECISION = 100, 1e-10


@dataclass(frozen=True)
class Shift:
    """A shift of the log-odds and what it was fitted to."""

    log_odds: float
    """Added to those of every image."""
    interval: list[float] | None
    """95 %, by records of the labelled images; None where a class is of one record."""
    labels: dict[str, int]
    """Labelled images, ``real`` and ``generated``."""


def fit_shift(scored: Scored, log_odds: np.ndarray, *, resamples: int, seed: int) -> Shift:
    """The shift of greatest likelihood, with the classes weighed equally and a weak prior.

    Args:
        scored: the labelled images, of both classes: of one class alone the likelihood would push the shift without end.
        log_odds: ``(N,)`` of being generated, where both classes are equally frequent.
        resamples: bootstrap resamples of records for the interval.
        seed: of the resamples.

    Raises:
        ValueError: a class is absent.
    """
    labels = scored.labels
    if len(np.unique(labels)) < 2:
        raise ValueError(
            f"labels of both classes are needed for a shift, got {len(labels)} of one class; label some of the other"
        )
    _, record_of = np.unique(scored.records, return_inverse=True)
    value = float(shifts(log_odds, labels, np.ones((1, len(labels))))[0])
    drawn = []
    for counts in blocks_of_counts(int(record_of.max()) + 1, len(labels), resamples=resamples, seed=seed):
        weights = counts[:, record_of].astype(np.float64)
        whole = (weights[:, labels == 1].sum(axis=1) > 0) & (weights[:, labels == 0].sum(axis=1) > 0)
        drawn.append(shifts(log_odds, labels, weights[whole]))  # a draw without one of the classes calls for no shift
    fewest = min(len(np.unique(record_of[labels == label])) for label in (0, 1))
    between = interval(np.concatenate(drawn)) if fewest > 1 else None
    return Shift(value, between, {"real": int((labels == 0).sum()), "generated": int((labels == 1).sum())})


def shifts(log_odds: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    r"""Of each row of weights the shift of greatest likelihood, by Newton's steps kept between two bounds.

    .. math:: \max_\delta \; \sum_i \frac{w_i}{2 W_{y_i}} \log \sigma\bigl((2 y_i - 1)(z_i + \delta)\bigr)
        - \frac{\delta^2}{2 \cdot 10^2 \, W}

    W of a class is the sum of its weights, W that of all. The function is concave, and its maximum finite.

    Args:
        log_odds: ``(N,)`` z.
        labels: ``(N,)``: 0 real, 1 generated.
        weights: ``(B, N)`` at least 0, above 0 for an image of each class.

    Returns:
        ``(B,)``.
    """
    generated = labels == 1
    share = np.where(generated, weights[:, generated].sum(axis=1)[:, None], weights[:, ~generated].sum(axis=1)[:, None])
    weight, prior = weights / (2 * share), 1 / (PRIOR_DEVIATION**2 * weights.sum(axis=1))
    reach = float(np.abs(log_odds).max()) + PRIOR_DEVIATION  # beyond, every image of one class pulls back
    low, high = np.full(len(weights), -reach), np.full(len(weights), reach)
    shift = np.zeros(len(weights))
    for _ in range(_STEPS):
        said = probability(log_odds + shift[:, None])
        slope = (weight * (generated - said)).sum(axis=1) - prior * shift
        low, high = np.where(slope > 0, shift, low), np.where(slope > 0, high, shift)
        step = shift + slope / ((weight * said * (1 - said)).sum(axis=1) + prior)
        middle = (low + high) / 2
        further = np.where((step > low) & (step < high), step, middle)
        if np.abs(further - shift).max(initial=0) < _PRECISION:
            return further
        shift = further
    return shift
