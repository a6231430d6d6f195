"""The bins of the calibration error: how many images of a probability are generated, with the classes weighed equally."""

from typing import Any

import numpy as np

from rdd.evaluation.bootstrap import interval, none_found_bound
from rdd.evaluation.draws import Draws
from rdd.evaluation.probabilities import bins_of, debiased_gaps, gaps, probability
from rdd.evaluation.scores import Scored


def reliability(scored: Scored, log_odds: np.ndarray, draws: Draws) -> list[dict[str, Any]]:
    """What a reliability diagram shows, bin by bin.

    Args:
        scored: the images; both classes must be present.
        log_odds: ``(N,)`` of being generated, where both classes are equally frequent.
        draws: of the same images and log-odds.

    Returns:
        By bin, from the lowest probability: ``weight`` (share of the images, the classes weighed equally), the mean
        ``probability`` that was said, the ``generated_share`` that was found with ``generated_share_interval`` (95 %, by
        records, of its distance to what was said: where it leaves out ``probability``, the bin is off by more than chance; a
        one-sided bound of the share where a class has no image in the bin), ``error`` (what the bin adds to
        ``calibration_error``, of which the rest is chance; below 0 where the gap is smaller than chance alone makes it),
        ``real_images``, ``generated_images``.
    """
    bins, said = bins_of(log_odds), probability(log_odds)
    count = int(bins.max()) + 1
    images = np.stack([np.bincount(bins[scored.labels == label], minlength=count) for label in (0, 1)])
    of_class = images.sum(axis=1, keepdims=True)
    sums = np.stack([np.bincount(bins[of], said[of], minlength=count) for of in (scored.labels == 0, scored.labels == 1)])
    weights, means = (images / of_class).sum(axis=0) / 2, (sums / of_class).sum(axis=0) / 2
    gap, drawn = gaps({name: np.array([value]) for name, value in draws.values.items()})[0], gaps(draws.drawn)
    records = [len(np.unique(scored.records[scored.labels == label])) for label in (0, 1)]
    drawable = min(records) > 1
    errors = debiased_gaps(gap[None], np.nanstd(drawn, axis=0, ddof=1))[0] if drawable else np.abs(gap)
    rows = []
    for number in np.flatnonzero(weights > 0).tolist():
        weight, mean = weights[number], means[number] / weights[number]
        shares = images[:, number] / of_class[:, 0]
        between = _bounds(interval(drawn[:, number]), float(weight), float(mean), shares, records) if drawable else None
        rows.append(
            {
                "weight": float(weight),
                "probability": float(mean),
                "generated_share": float(shares[1] / shares.sum()),
                "generated_share_interval": between,
                "error": float(errors[number]),
                "real_images": int(images[0, number]),
                "generated_images": int(images[1, number]),
            }
        )
    return rows


def _bounds(gap: list[float] | None, weight: float, mean: float, shares: np.ndarray, records: list[int]) -> list[float] | None:
    """Of the generated share, from those of the gap; a class without an image here is bounded as Clopper and Pearson do."""
    if shares.min() == 0:
        absent = int(shares.argmin())
        most = none_found_bound(records[absent])
        beyond = most / (most + shares.max())
        return [0.0, float(beyond)] if absent == 1 else [float(1 - beyond), 1.0]
    return None if gap is None else [float(np.clip(mean + end / weight, 0, 1)) for end in gap]
