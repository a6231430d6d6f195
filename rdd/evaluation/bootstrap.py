"""Intervals by resampling records: images of one record are not independent."""

import itertools
from collections.abc import Iterator

import numpy as np
from scipy import stats

_WEIGHTS_AT_A_TIME = 2**18  # of images times draws: what a block needs stays small, and few images take few steps
_IMAGES_AT_A_TIME = 2**16  # what a piece of the sum needs stays in the cache


class RecordWeightedAuc:
    """AUC of fixed scores when records are counted several times or not at all, over all images and by group.

    Everything that must be sorted is sorted once: of each generated image, how many real ones lie below it. Counts of records
    then give the AUC by a cumulative sum over the real images and a gather and a product over the generated ones. It is exact:
    every sum is one of whole or half numbers below 2^53.

    Args:
        logits: ``(N,)``.
        labels: ``(N,)``: 0 real, 1 generated.
        records: ``(N,)`` record of each image, any integers.
        groups: ``(N,)`` small integers from 0: each group's generated images are ranked against all real images.
    """

    def __init__(self, logits: np.ndarray, labels: np.ndarray, records: np.ndarray, groups: np.ndarray | None = None) -> None:
        ids, numbers = np.unique(records, return_inverse=True)
        self.records = len(ids)
        """How many there are."""
        numbers = numbers.astype(np.int32)
        generated = np.flatnonzero(labels == 1)
        group_of = np.zeros(len(generated), dtype=np.int8) if groups is None else groups[generated]
        generated = generated[np.lexsort((logits[generated], group_of))]  # by group, so that a group is a slice
        real = np.flatnonzero(labels == 0)
        real = real[np.argsort(logits[real])]
        ends = np.cumsum(np.bincount(group_of)) if len(generated) else np.zeros(1, dtype=int)
        self._slices = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        self._record_of_real, self._record_of_generated = numbers[real], numbers[generated]
        sides = (np.searchsorted(logits[real], logits[generated], side=side) for side in ("left", "right"))
        self._below, self._up_to = (side.astype(np.int32) for side in sides)

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """AUC with each record counted so often.

        Args:
            counts: ``(R,)`` whole numbers, by record in ascending order.

        Returns:
            ``(1 + G,)``: of all images, then of each group; NaN where a class has no image.
        """
        right, pairs = self.ranked_right(counts)
        with np.errstate(invalid="ignore"):
            return right / pairs

    def ranked_right(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs ranked right, a tie counted half, and pairs in all; each ``(1 + G,)``, of all images and of each group."""
        real_up_to = np.concatenate([[0.0], np.cumsum(counts[self._record_of_real], dtype=np.float64)])
        right, weights = np.zeros(len(self._slices)), np.zeros(len(self._slices))
        for group, where in enumerate(self._slices):
            for start in range(where.start, where.stop, _IMAGES_AT_A_TIME):
                some = slice(start, min(start + _IMAGES_AT_A_TIME, where.stop))
                weight = counts[self._record_of_generated[some]].astype(np.float64)
                below = real_up_to[self._below[some]] + real_up_to[self._up_to[some]]
                right[group] += (weight * below).sum() / 2  # not by BLAS, whose threads cost more than they save here
                weights[group] += weight.sum()
        pairs = weights * real_up_to[-1]
        return np.append(right.sum(), right), np.append(pairs.sum(), pairs)


def resampled_counts(records: int, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each record is drawn when as many as there are are drawn with replacement.

    Args:
        records: R, at least 1.
        resamples: how many draws.
        seed: of the draws.

    Yields:
        ``(R,)`` int32 counts.
    """
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield drawn_counts(records, rng)


def blocks_of_counts(records: int, images: int, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """The draws of :func:`resampled_counts`, several at a time where there are few images.

    Args:
        records: R, at least 1.
        images: N, at least 1; decides how many draws a block holds.
        resamples: how many draws.
        seed: of the draws.

    Yields:
        ``(B, R)`` int32 counts.
    """
    at_a_time = max(1, _WEIGHTS_AT_A_TIME // max(images, records))
    draws = resampled_counts(records, resamples=resamples, seed=seed)
    while block := list(itertools.islice(draws, at_a_time)):
        yield np.stack(block)


def drawn_counts(records: int, rng: np.random.Generator) -> np.ndarray:
    """One of :func:`resampled_counts`."""
    return np.bincount(rng.integers(records, size=records), minlength=records).astype(np.int32)


def interval(values: np.ndarray, *, level: float = 0.95) -> list[float] | None:
    """Percentile interval of bootstrap values, NaN left out; None where fewer than half are numbers."""
    known = values[~np.isnan(values)]
    if len(known) < len(values) / 2:
        return None
    return [float(bound) for bound in np.quantile(known, [(1 - level) / 2, (1 + level) / 2])]


def share_interval(value: float, values: np.ndarray, records: int, *, level: float = 0.95) -> list[float] | None:
    """Interval of a share in [0, 1] whose bootstrap leans to one side, such as average precision: symmetric in log-odds.

    Args:
        value: found.
        values: ``(draws,)`` of the bootstrap, NaN left out.
        records: that were drawn from, at least 2.
        level: of confidence.

    Returns:
        Its ends, by Student's t and the deviation of the draws' log-odds; the percentiles where the share is 0 or 1.
    """
    inner = values[(values > 0) & (values < 1)]
    if not 0 < value < 1 or len(inner) < len(values) / 2 or records < 2:
        return interval(values, level=level)
    reach = stats.t.ppf((1 + level) / 2, records - 1) * np.std(np.log(inner / (1 - inner)), ddof=1)
    centre = np.log(value / (1 - value))
    return [float(1 / (1 + np.exp(-(centre + side * reach)))) for side in (-1, 1)]


def rate_interval(value: float, values: np.ndarray, records: int, *, level: float = 0.95) -> list[float] | None:
    """Percentile interval of a rate; where no record has the event, or all have, the one-sided bound that this allows.

    Args:
        value: found.
        values: ``(draws,)`` of the bootstrap, NaN left out.
        records: with an image that counts, at least 1; their images are taken for one, since they may depend on each other.
        level: of confidence.
    """
    if value in (0, 1):
        reach = none_found_bound(records, level=level)
        return [0.0, reach] if value == 0 else [1 - reach, 1.0]
    return interval(values, level=level)


def none_found_bound(records: int, *, level: float = 0.95) -> float:
    """Upper confidence bound of a rate of which none of so many records has an event, by Clopper and Pearson, one-sided."""
    return float(1 - (1 - level) ** (1 / max(records, 1)))


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


def difference_without_errors(ends: list[float] | None, aucs: tuple[float, float], least: float) -> list[float] | None:
    """Interval of a difference of two AUCs of which one or both have no mis-ranked pair, which a bootstrap takes for certain.

    Args:
        ends: by the bootstrap.
        aucs: of the one, and of the other that is taken from it.
        least: lower bound of an AUC of 1 (:func:`bound_without_errors`).

    Returns:
        The same ends, moved by what an AUC of 1 may be too high: the lower end where the one is 1, the upper where the other.

    Example:
        >>> difference_without_errors([0.0, 0.0], (1.0, 1.0), 0.875), difference_without_errors([-0.25, 0.0], (0.9, 1.0), 0.875)
        ([-0.125, 0.125], [-0.25, 0.125])
    """
    if ends is None:
        return None
    lower, upper = ((1 - least) * (auc == 1) for auc in aucs)
    return [ends[0] - lower, ends[1] + upper]
