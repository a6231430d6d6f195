"""How often images are generated that get a certain probability: the points of a reliability diagram."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdd.calibration import Calibration
from rdd.evaluation.bootstrap import interval, resampled_counts
from rdd.evaluation.probabilities import bins_of, probability
from rdd.evaluation.scores import Scored

_RESAMPLES = 200
_IMAGES_A_BIN, _FEWEST_BINS = 20, 4
_RECORDS = 100_000  # of more records the intervals are narrower than the dots that they would be drawn through


@dataclass(frozen=True)
class Bin:
    """Images of like probability, the classes weighed equally."""

    probability: float
    """Mean of what the detector says."""
    generated: float
    """Share of generated images."""
    interval: list[float] | None
    """95 % of that share, by resampling records; None where there is nothing to draw from."""
    images: int


def reported(report: Mapping[str, Any]) -> list[Bin]:
    """The bins that an evaluation has written down; none of one of an earlier version."""
    return [
        Bin(
            probability=one["probability"],
            generated=one["generated_share"],
            interval=one["generated_share_interval"],
            images=one["real_images"] + one["generated_images"],
        )
        for one in report.get("reliability") or ()
    ]


def reliability(scored: Scored, calibration: Calibration, *, seed: int = 0) -> list[Bin]:
    """Bins of as many images each: those of the calibration error, of a small set some of them joined.

    Args:
        scored: logits of both classes.
        calibration: their probabilities.
        seed: of the resamples.

    Returns:
        From the lowest probability to the highest.
    """
    log_odds = calibration.log_odds(scored.logits)
    bin_of, said = _joined(bins_of(log_odds).astype(np.int64)), probability(log_odds)
    totals = np.bincount(scored.labels, minlength=2)
    weights = 1 / (2 * totals[scored.labels])  # each class counts half, as in the calibration error
    numbers = np.bincount(bin_of)
    of_class = [np.bincount(bin_of, weights * (scored.labels == label), minlength=len(numbers)) for label in (0, 1)]
    share = of_class[1] / (of_class[0] + of_class[1])
    means = np.bincount(bin_of, weights * said) / (of_class[0] + of_class[1])
    drawn = _drawn_shares(scored, bin_of, len(numbers), seed)
    return [
        Bin(float(means[k]), float(share[k]), None if drawn is None else interval(drawn[:, k]), int(numbers[k]))
        for k in np.flatnonzero(numbers)
    ]


def _joined(bin_of: np.ndarray) -> np.ndarray:
    """Neighbouring bins as one where they hold too few images to be drawn apart."""
    bins = int(bin_of.max()) + 1
    wanted = min(bins, max(_FEWEST_BINS, len(bin_of) // _IMAGES_A_BIN))
    return bin_of * wanted // bins


def _drawn_shares(scored: Scored, bin_of: np.ndarray, bins: int, seed: int) -> np.ndarray | None:
    """``(draws, bins)`` share of generated images in each bin, NaN where a draw has none in it."""
    ids, record_of = np.unique(scored.records, return_inverse=True)
    if not 1 < len(ids) <= _RECORDS:
        return None
    cells = len(ids) * bins
    images = [
        np.bincount((record_of * bins + bin_of)[scored.labels == label], minlength=cells).reshape(len(ids), bins)
        for label in (0, 1)
    ]
    shares = np.empty((_RESAMPLES, bins))
    for number, counts in enumerate(resampled_counts(len(ids), resamples=_RESAMPLES, seed=seed)):
        real, generated = (counts.astype(np.float64) @ of_class for of_class in images)
        with np.errstate(invalid="ignore", divide="ignore"):
            real, generated = real / real.sum(), generated / generated.sum()
            shares[number] = generated / (real + generated)
    return shares
