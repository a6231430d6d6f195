"""Uncertainty of an AUC and of a difference of two, where images of one record are not independent and neither are seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rdd.evaluation.bootstrap import RecordWeightedAuc, drawn_counts, interval
from rdd.evaluation.scores import Scored
from rdd.metrics import auroc


@dataclass(frozen=True)
class Difference:
    """Mean AUC of one row less that of another."""

    value: float
    interval: list[float] | None
    """95 %, by the joint bootstrap over seeds and records, widened for few seeds."""
    p_value: float
    """Two-sided, of no difference."""


def record_components(scored: Scored) -> np.ndarray:
    r"""What each record adds to the error of the AUC: its structural components, summed over its images.

    .. math:: e_r = \frac{1}{n_+} \sum_{i \in r, +} (V_i - \hat\theta)
        + \frac{1}{n_-} \sum_{j \in r, -} (V_j - \hat\theta)

    with V_i the share of images of the other class that image i is ranked right against. The variance of the AUC is
    R / (R - 1) times the sum of their squares; plain DeLong takes images for independent.

    Args:
        scored: logits, labels and records.

    Returns:
        ``(R,)`` float64, by record in ascending order.

    Reference:
        Obuchowski, Nonparametric analysis of clustered ROC curve data, Biometrics 53 (1997).
    """
    positive = scored.labels == 1
    real, generated = np.sort(scored.logits[~positive]), np.sort(scored.logits[positive])
    right = np.empty(len(scored.logits))
    right[positive] = _share_below(real, scored.logits[positive])
    right[~positive] = 1 - _share_below(generated, scored.logits[~positive])
    errors = (right - right[positive].mean()) / np.where(positive, positive.sum(), (~positive).sum())
    _, record_numbers = np.unique(scored.records, return_inverse=True)
    return np.bincount(record_numbers, weights=errors)


def _share_below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of the ordered values below each value, ties counted half."""
    left, right = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (left + right) / (2 * len(ordered))


@dataclass(frozen=True)
class Spread:
    """An estimate that is a mean over seeds, and how much it varies."""

    value: float
    record_variance: float
    """Variance over records (Obuchowski), of the components' mean over seeds."""
    seed_variance: float
    """Variance over seeds of that mean; 0 for one seed, which says nothing of others."""
    records: int
    seeds: int

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the sum of both variances, by Satterthwaite."""
        squares = self.record_variance**2 / (self.records - 1)
        if self.seeds > 1:
            squares += self.seed_variance**2 / (self.seeds - 1)
        return (self.record_variance + self.seed_variance) ** 2 / squares

    @property
    def p_value(self) -> float:
        """Two-sided, of the value 0, by Student's t; 1 where nothing varies.

        Variation that records and seeds share is counted in both variances, so the p-value is conservative.
        """
        variance = self.record_variance + self.seed_variance
        return float(2 * stats.t.sf(abs(self.value) / np.sqrt(variance), self.freedom)) if variance else 1.0

    def interval(self, drawn: np.ndarray) -> list[float] | None:
        """95 % interval of a joint bootstrap, widened about the value, since resampling few seeds makes it too narrow.

        Drawing S seeds out of S shows only (S - 1) / S of their variance, and percentiles are those of a normal distribution
        where Student's t applies.

        Args:
            drawn: ``(resamples,)`` bootstrap values of the estimate.
        """
        bounds, variance = interval(drawn), self.record_variance + self.seed_variance
        if bounds is None or not variance:
            return bounds
        resampled = self.record_variance + self.seed_variance * (self.seeds - 1) / self.seeds
        stretch = float(np.sqrt(variance / resampled) * stats.t.ppf(0.975, self.freedom) / stats.norm.ppf(0.975))
        return [self.value + stretch * (bound - self.value) for bound in bounds]


def spread_of(by_seed: Sequence[Scored]) -> Spread:
    """The mean AUC of a row over its seeds, all scored on the same images."""
    return _spread([_auc(one) for one in by_seed], [record_components(one) for one in by_seed])


def spread_of_difference(ours: Sequence[Scored], theirs: Sequence[Scored]) -> Spread:
    """The mean difference of AUC of two rows, both scored on the same images by models of the same seeds.

    Args:
        ours: by seed, logits of the test images.
        theirs: the same images and seeds.
    """
    pairs = list(zip(ours, theirs, strict=True))
    values = [_auc(one) - _auc(other) for one, other in pairs]
    return _spread(values, [record_components(one) - record_components(other) for one, other in pairs])


def _spread(values: Sequence[float], components: Sequence[np.ndarray]) -> Spread:
    mean = np.mean(components, axis=0)
    records, seeds = len(mean), len(values)
    record_variance = records / (records - 1) * float(np.square(mean).sum())
    seed_variance = float(np.var(values, ddof=1)) / seeds if seeds > 1 else 0.0
    return Spread(float(np.mean(values)), record_variance, seed_variance, records, seeds)


def _auc(scored: Scored) -> float:
    return auroc(scored.logits, scored.labels)


def joint_bootstrap(rows: dict[str, Sequence[Scored]], *, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Mean AUC of each row under draws of seeds and of whole records, the same draws for all rows.

    Args:
        rows: by name and seed, logits of the same images in the same order.
        resamples: how many draws.
        seed: of the draws.

    Returns:
        By name, ``(resamples,)`` float64; NaN where a draw lacks a class.
    """
    aucs = {
        name: [RecordWeightedAuc(scored.logits, scored.labels, scored.records) for scored in by_seed]
        for name, by_seed in rows.items()
    }
    first = next(iter(aucs.values()))
    records, seeds = first[0].records, len(first)
    drawn = {name: np.empty(resamples) for name in rows}
    rng = np.random.default_rng(seed)
    for number in range(resamples):
        counts = drawn_counts(records, rng)
        chosen = rng.integers(seeds, size=seeds)
        for name, by_seed in aucs.items():
            values = {which: by_seed[which](counts)[0] for which in set(chosen.tolist())}
            drawn[name][number] = np.mean([values[which] for which in chosen.tolist()])
    return drawn


def difference(
    ours: Sequence[Scored], theirs: Sequence[Scored], drawn_ours: np.ndarray, drawn_theirs: np.ndarray
) -> Difference:
    """The paired difference of two rows, given their joint bootstrap."""
    spread = spread_of_difference(ours, theirs)
    return Difference(spread.value, spread.interval(drawn_ours - drawn_theirs), spread.p_value)


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """P-values adjusted for their number, so that one false alarm among all is as rare as asked for.

    Reference:
        Holm, A simple sequentially rejective multiple test procedure, 1979.

    Example:
        >>> {name: round(value, 6) for name, value in holm({"a": 0.01, "b": 0.04, "c": 0.03}).items()}
        {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
