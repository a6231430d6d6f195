"""Intervals by resampling records: images of one record are not independent."""

from collections.abc import Iterator

import numpy as np


class WeightedAuc:
    """AUC of fixed scores under changing weights, in one pass over them each time.

    Args:
        logits: ``(N,)``.
        labels: ``(N,)``: 0 real, 1 generated.
    """

    def __init__(self, logits: np.ndarray, labels: np.ndarray) -> None:
        self._order = np.argsort(logits, kind="stable")
        self._generated = labels[self._order] == 1
        ordered = logits[self._order]
        self._starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))

    def __call__(self, weights: np.ndarray) -> float:
        """AUC with weight ``weights[i]`` on image i; NaN where a class has no weight."""
        weights = weights[self._order]
        generated = np.add.reduceat(np.where(self._generated, weights, 0.0), self._starts)
        real = np.add.reduceat(np.where(self._generated, 0.0, weights), self._starts)
        pairs = real.sum() * generated.sum()
        below = np.cumsum(real) - real
        return float((generated * (below + 0.5 * real)).sum() / pairs) if pairs else float("nan")


def resampled_counts(records: np.ndarray, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image is drawn when whole records are drawn with replacement.

    Args:
        records: ``(N,)`` record of each image, any integers.
        resamples: how many draws.
        seed: of the draws.

    Yields:
        ``(N,)`` float64 counts.
    """
    _, record_numbers = np.unique(records, return_inverse=True)
    number = int(record_numbers.max()) + 1
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(number, size=number), minlength=number).astype(np.float64)[record_numbers]


def interval(values: np.ndarray, *, level: float = 0.95) -> list[float] | None:
    """Percentile interval of bootstrap values, NaN left out; None where fewer than half are numbers."""
    known = values[~np.isnan(values)]
    if len(known) < len(values) / 2:
        return None
    return [float(bound) for bound in np.quantile(known, [(1 - level) / 2, (1 + level) / 2])]


def bound_without_errors(records: np.ndarray, labels: np.ndarray, *, level: float = 0.95) -> float:
    """Lower confidence bound of the AUC where no pair is mis-ranked, which a bootstrap would take for certainty.

    The AUC is the chance that a generated image of one record is ranked above a real image of another. So many such pairs
    share no record: as many as there are records of either class, and at most half of all records. None of them being
    mis-ranked, Clopper and Pearson's bound of that chance is (1 - level)^(1 / pairs).

    Args:
        records: ``(N,)`` record of each image, any integers.
        labels: ``(N,)``: 0 real, 1 generated.
        level: of confidence, one-sided.

    Example:
        >>> round(bound_without_errors(np.arange(400) // 2, np.arange(400) % 2), 4)
        0.9705
    """
    real, generated = (len(np.unique(records[labels == label])) for label in (0, 1))
    pairs = min(real, generated, len(np.unique(records)) // 2)
    return float((1 - level) ** (1 / max(pairs, 1)))
