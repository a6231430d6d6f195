"""What an evaluation says of bands, coverage and reliability, against slow and obvious counts, and by simulation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from rdd.bands import Bands, fix_bands
from rdd.calibration import Calibration
from rdd.evaluation.coverage import coverage, expected_coverage
from rdd.evaluation.precision import precision_interval
from rdd.evaluation.report import evaluate
from rdd.evaluation.scores import Scored
from rdd.evaluation.verdicts import verdicts
from rdd.tracking.run_metrics import report_metrics

RATES = {"false_positive_rate": 0.05, "false_negative_rate": 0.1}
DRAWING = {"resamples": 200, "seed": 0}


def drawn_set(records: int, seed: int, shift: float = 0.0) -> Scored:
    """A real image and one of each of two generators a record; logits are log-odds of ``easy`` where nothing is shifted."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(records, 3)) + np.array([-2.0, 2.0, 1.0]) + shift
    names = np.tile(np.array(["real", "easy", "hard"]), records)
    return Scored.named(logits.ravel(), np.tile([0, 1, 1], records), names, np.repeat(np.arange(records), 3))


def bands_of(scored: Scored, **more: object) -> Bands:
    return fix_bands(scored.logits, scored.labels, scored.records, **(RATES | more))


def calibrated(bands: Bands | None) -> Calibration:
    return Calibration(threshold=1.0, false_positive_rate=0.05, slope=1.0, offset=0.0, prior=0.5, bands=bands)


def test_verdicts_are_counted_by_class_and_by_generator() -> None:
    bands, scored = bands_of(drawn_set(300, 0)), drawn_set(400, 1)
    report = verdicts(scored, bands, **DRAWING)
    up, down = scored.logits >= bands.likely_generated_from, scored.logits <= bands.likely_real_to
    real = scored.labels == 0
    assert report["false_positive_rate"] == up[real].mean()
    assert report["false_negative_rate"] == down[~real].mean()
    assert report["real_uncertain"] == pytest.approx((~up & ~down)[real].mean())
    false, found = up[real].mean(), up[~real].mean()
    assert report["real_among_likely_generated"] == pytest.approx(false / (false + found))
    assert report["precision_at_1_percent_generated"] == pytest.approx(0.01 * found / (0.01 * found + 0.99 * false))
    for name in ("easy", "hard"):
        of, row = scored.generated_by()[name], report["by_generator"][name]
        assert row["likely_generated"] == up[of].mean()
        assert row["likely_generated"] + row["uncertain"] + row["likely_real"] == pytest.approx(1)
    for name, between in report.items():
        if name.endswith("_interval"):
            assert between[0] <= report[name.removesuffix("_interval")] <= between[1]


def test_where_no_false_alarm_was_met_a_rare_one_may_still_make_most_verdicts_wrong() -> None:
    scored, none = drawn_set(50, 0), np.zeros(200)
    never = replace(bands_of(scored), likely_generated_from=float(scored.logits[scored.labels == 0].max() + 0.1))
    report = verdicts(scored, never, **DRAWING)
    assert report["false_positive_rate"] == 0
    assert report["precision_at_1_percent_generated"] == 1
    most = 1 - 0.05 ** (1 / 50)  # 0.058: the alarms that 50 real images without one leave possible
    found = (scored.logits[scored.labels == 1] >= never.likely_generated_from).mean()
    low, high = report["precision_at_1_percent_generated_interval"]
    assert (low, high) == (pytest.approx(0.01 * found / (0.01 * found + 0.99 * most)), 1.0)
    assert low < 0.2
    empty = replace(bands_of(scored), likely_generated_from=100.0)
    assert verdicts(scored, empty, **DRAWING)["real_among_likely_generated"] is None
    assert precision_interval(0.01, (0.0, none, 50), (0.1, none + 0.1, 50))[1] < 0.01
    one_record = replace(calibrated(never), threshold=9.0)
    report = evaluate(drawn_set(50, 0), calibration=replace(one_record, threshold=never.likely_generated_from), **DRAWING)
    assert report["precision_at_1_percent_generated_interval"] == [pytest.approx(low), 1.0]


def test_coverage_of_images_like_those_of_validation_is_within_what_is_expected() -> None:
    missed, levels = 0, [0.8, 0.9]
    for seed in range(200):
        bands = bands_of(drawn_set(60, seed), levels=levels)
        (_, report) = coverage(drawn_set(80, 1000 + seed), bands, resamples=2, seed=0).values()
        missed += not report["real_as_calibrated"]
    assert 1 <= missed <= 12  # 2.5 % of 200 below; half as much more or less for whole numbers
    found = stats.betabinom(70, 46, 5).ppf([0.025, 0.975]) / 70
    assert expected_coverage(0.9, validation_records=50, test_records=70) == found.tolist()
    low, high = expected_coverage(0.9, validation_records=99, test_records=10**6)
    assert [low, high] == pytest.approx(stats.beta(90, 10).ppf([0.025, 0.975]), abs=1e-3)
    assert expected_coverage(0.999, validation_records=9, test_records=100)[0] < 0.7  # no more than 9 in 10 can be promised


def test_images_of_another_kind_are_told_by_their_coverage(caplog: pytest.LogCaptureFixture) -> None:
    from rdd.evaluation.coverage import warn_of_other_images

    bands = bands_of(drawn_set(300, 0), levels=[0.9])
    report = coverage(drawn_set(300, 1, shift=1.5), bands, **DRAWING)
    (row,) = report.values()
    assert (row["real_as_calibrated"], row["generated_as_calibrated"]) == (False, True)
    warn_of_other_images(report, "all")
    assert "all: sets at level 0.9 hold the class of a share 0.6" in caplog.text
    assert "of the real images" in caplog.text


def test_the_bins_add_up_to_the_calibration_error() -> None:
    report = evaluate(drawn_set(400, 0, shift=1.0), calibration=calibrated(None), **DRAWING)
    bins, scored = report["reliability"], drawn_set(400, 0, shift=1.0)
    assert sum(row["error"] for row in bins) == pytest.approx(report["calibration_error"])
    assert sum(row["weight"] for row in bins) == pytest.approx(1)
    assert [sum(row[f"{name}_images"] for row in bins) for name in ("real", "generated")] == [400, 800]
    number = 7
    edges = np.quantile(scored.logits, [number / 15, (number + 1) / 15])
    inside = (scored.logits >= edges[0]) & (scored.logits < edges[1])
    weights = np.where(scored.labels == 1, 1 / 800, 1 / 400)[inside]
    row = bins[number]
    assert row["generated_share"] == pytest.approx(np.average(scored.labels[inside], weights=weights))
    assert row["probability"] == pytest.approx(np.average(1 / (1 + np.exp(-scored.logits[inside])), weights=weights))
    for row in bins:
        low, high = row["generated_share_interval"]
        assert 0 <= low <= row["generated_share"] <= high <= 1


def test_the_interval_of_a_bin_covers_the_probability_that_is_true() -> None:
    covered = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        labels = np.tile([0, 1], 300)
        scored = Scored.named(
            2 * rng.normal(size=600) + 4 * labels - 2, labels, np.where(labels, "a", "real"), np.arange(600) // 2
        )
        bins = evaluate(scored, calibration=calibrated(None), **DRAWING)["reliability"]
        covered += [
            row["generated_share_interval"][0] <= row["probability"] <= row["generated_share_interval"][1] for row in bins
        ]
    assert 0.91 <= np.mean(covered) <= 0.98


def test_a_detector_without_bands_is_evaluated_without_them() -> None:
    report = evaluate(drawn_set(50, 0), calibration=calibrated(None), **DRAWING)
    assert (report["bands"], report["coverage"]) == (None, {})
    numbers = report_metrics(report, "test")
    assert not any("bands" in name or "coverage" in name for name in numbers)
    with_bands = evaluate(drawn_set(50, 0), calibration=calibrated(bands_of(drawn_set(50, 1), levels=[0.9])), **DRAWING)
    logged = report_metrics(with_bands, "test")
    assert logged["test/bands/uncertain"] == with_bands["bands"]["uncertain"]
    assert logged["test/coverage_0.9/real_coverage_low"] == with_bands["coverage"]["0.9"]["real_coverage_interval"][0]
    assert {name: with_bands[name] for name in report if name not in ("bands", "coverage")} == {
        name: value for name, value in report.items() if name not in ("bands", "coverage")
    }
