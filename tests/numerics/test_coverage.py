"""Intervals cover the truth as often as they say and p-values are uniform where nothing is there, by simulation.

Images of a record share a part of their logit, so that an interval that took them for independent would be too narrow.
"""

import numpy as np
import pytest
from scipy import stats

from rdd.calibration import Calibration
from rdd.evaluation.bootstrap import RecordWeightedAuc, blocks_of_counts, interval, share_interval
from rdd.evaluation.curve import CURVE_METRICS, RecordWeightedCurve
from rdd.evaluation.paired import difference, joint_bootstrap, spread_of_difference
from rdd.evaluation.probabilities import debiased_error, probability
from rdd.evaluation.report import evaluate
from rdd.evaluation.scores import Scored
from rdd.evaluation.simultaneous import simultaneous
from rdd.metrics import auroc

RECORDS, LABELS = 200, np.array([0, 1, 1])
SIMULATIONS = [pytest.param(120, (0.89, 0.995), id="120"), pytest.param(2000, (0.93, 0.97), id="2000", marks=pytest.mark.long)]
"""How many, and which coverage is let pass: 93 to 97 %, and with few simulations two more of their deviations."""


def drawn_set(rng: np.random.Generator, records: int = RECORDS, shift: float = 1.5) -> Scored:
    logits = rng.normal(size=(records, 1)) + rng.normal(size=(records, 3)) + np.array([0.0, shift, shift / 2])
    names = np.tile(np.array(["real", "easy", "hard"]), records)
    return Scored.named(logits.ravel(), np.tile(LABELS, records), names, np.repeat(np.arange(records), 3))


def truth(metric: str) -> float:
    big = drawn_set(np.random.default_rng(10**6), 300_000)
    if metric == "auroc":
        return auroc(big.logits, big.labels)
    curve = RecordWeightedCurve(big.logits, big.labels, big.records)
    return float(curve(np.ones((1, curve.records), dtype=np.int32))[0, CURVE_METRICS.index(metric)])


def interval_of(metric: str, scored: Scored, seed: int) -> list[float] | None:
    """As :func:`rdd.evaluation.report.evaluate` makes it."""
    blocks = blocks_of_counts(RECORDS, len(scored.logits), resamples=400, seed=seed)
    if metric == "auroc":
        aucs = RecordWeightedAuc(scored.logits, scored.labels, scored.records)
        return interval(np.array([aucs(counts)[0] for block in blocks for counts in block]))
    curve, column = RecordWeightedCurve(scored.logits, scored.labels, scored.records), CURVE_METRICS.index(metric)
    value = curve(np.ones((1, RECORDS), dtype=np.int32))[0, column]
    return share_interval(float(value), np.concatenate([curve(counts)[:, column] for counts in blocks]), RECORDS)


@pytest.mark.parametrize(("simulations", "allowed"), SIMULATIONS)
@pytest.mark.parametrize("metric", ["auroc", "average_precision"])
def test_an_interval_covers_the_truth(metric: str, simulations: int, allowed: tuple[float, float]) -> None:
    expected, covered = truth(metric), 0
    for seed in range(simulations):
        low, high = interval_of(metric, drawn_set(np.random.default_rng(seed)), seed)
        covered += low <= expected <= high
    assert allowed[0] <= covered / simulations <= allowed[1]


def two_detectors(rng: np.random.Generator, gain: float = 0.0, records: int = RECORDS) -> tuple[list[Scored], list[Scored]]:
    """The same images scored twice, the second time with another gain; each detector makes something of a record."""
    common, rows = drawn_set(rng, records), []
    for extra in (0.0, gain):
        own = rng.normal(size=records)[common.records] * 0.6 + 0.3 * rng.normal(size=3 * records)
        logits = common.logits + own + extra * common.labels
        rows.append([Scored(logits, common.labels, common.generator_of, common.generators, common.records)])
    return rows[0], rows[1]


@pytest.mark.parametrize(("simulations", "allowed"), SIMULATIONS)
def test_the_interval_of_a_paired_difference_covers_the_truth(simulations: int, allowed: tuple[float, float]) -> None:
    big = two_detectors(np.random.default_rng(10**6), 0.3, 300_000)
    expected, covered = spread_of_difference(*big).value, 0
    for seed in range(simulations):
        one, other = two_detectors(np.random.default_rng(seed), 0.3)
        drawn = joint_bootstrap({"one": one, "other": other}, resamples=250, seed=seed)
        low, high = difference(one, other, drawn["one"], drawn["other"]).interval
        covered += low <= expected <= high
    assert allowed[0] <= covered / simulations <= allowed[1]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_every_interval_of_an_evaluation_covers_the_truth_as_often_as_is_said() -> None:
    """2,000 sets of 200 records; README.md has the figures."""
    calibration = Calibration(threshold=1.5, false_positive_rate=0.05, slope=1.0, offset=-0.5, prior=0.5)
    true = evaluate(drawn_set(np.random.default_rng(10**6), 300_000), calibration=calibration, resamples=100, seed=0)
    names = [name.removesuffix("_interval") for name, bounds in true.items() if name.endswith("_interval") and bounds]
    covered = dict.fromkeys(names, 0)
    for seed in range(2000):
        report = evaluate(drawn_set(np.random.default_rng(seed)), calibration=calibration, resamples=400, seed=seed)
        for name in names:
            low, high = report[f"{name}_interval"]
            covered[name] += low <= true[name] <= high
    coverage = {name: count / 2000 for name, count in covered.items()}
    print(coverage)
    assert 0.89 <= coverage.pop("tpr_at_1_percent_fpr") <= 0.93  # two real images of 200 decide it
    assert 0.97 <= coverage.pop("calibration_error")  # its interval adds the deviation of a draw to that of the set
    assert all(0.93 <= share <= 0.97 for share in coverage.values()), coverage


def test_p_values_are_uniform_where_nothing_is_there() -> None:
    p_values = [spread_of_difference(*two_detectors(np.random.default_rng(seed))).p_value for seed in range(2000)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert 0.04 <= np.mean(np.array(p_values) < 0.05) <= 0.06


def test_intervals_of_all_generators_hold_together() -> None:
    """20 generators of one AUC: made on its own, the interval of the one found to be worst misses more often."""
    generators, held, alone, worst_held, simulations = 20, 0, 0, 0, 120
    expected = stats.norm.cdf(1.5 / np.sqrt(2))
    for seed in range(simulations):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(RECORDS, 1 + generators)) + 1.5 * (np.arange(1 + generators) > 0)
        labels = np.tile((np.arange(1 + generators) > 0).astype(int), RECORDS)
        groups = np.tile(np.maximum(np.arange(1 + generators) - 1, 0), RECORDS)
        aucs = RecordWeightedAuc(logits.ravel(), labels, np.repeat(np.arange(RECORDS), 1 + generators), groups)
        values = aucs(np.ones(RECORDS, dtype=int))[1:]
        (blocks,) = blocks_of_counts(RECORDS, 1, resamples=200, seed=seed)
        drawn = np.stack([aucs(counts)[1:] for counts in blocks])
        found, worst = simultaneous(values, drawn), int(np.argmin(values))
        held += all(low <= expected <= high for low, high in found.intervals)
        worst_held += found.worst[0] <= expected <= found.worst[1]
        low, high = interval(drawn[:, worst])
        alone += low <= expected <= high
    assert 0.88 <= held / simulations <= 0.995
    assert worst_held >= held
    assert alone < held - 0.05 * simulations


def test_the_calibration_error_is_debiased() -> None:
    """Of calibrated probabilities a third or more of what chance adds is taken off; where they are not, little is."""
    rng, deviation = np.random.default_rng(0), np.full(15, 0.01)
    for true_gap, most in ((0.0, 0.62), (0.02, 1.0)):
        gap = true_gap + deviation * rng.normal(size=(4000, 15))
        plain, debiased = np.abs(gap).sum(axis=1), debiased_error(gap, deviation)
        assert debiased.mean() < most * plain.mean()
        assert debiased.mean() > 0.95 * 15 * true_gap
    assert probability(np.array([-800.0, 0.0, 800.0])).tolist() == [0.0, 0.5, 1.0]
