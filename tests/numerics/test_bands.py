"""Bands keep the rates that they state, by simulation with exchangeable records, and say so where they can not."""

import json
import logging
from dataclasses import asdict, replace

import numpy as np
import pytest

from rdd.bands import Bands, ConformalSet, edge_at, fix_bands
from rdd.calibration import Calibration, _warn_of_few_records


@pytest.mark.parametrize(("records", "rate"), [(9, 0.1), (19, 0.1), (50, 0.1), (50, 0.025), (199, 0.005)])
def test_with_an_image_a_record_the_rate_is_exact(records: int, rate: float) -> None:
    """Of uniform values the chance above an edge is 1 - edge, with the mean of an order statistic."""
    rng = np.random.default_rng(0)
    missed = [1 - edge_at(rng.random(records), np.arange(records), rate) for _ in range(6000)]
    exact = np.floor(rate * (records + 1) + 1e-9) / (records + 1)
    assert exact <= rate
    assert np.mean(missed) == pytest.approx(exact, abs=4 * np.std(missed) / np.sqrt(6000))
    # one image more above the edge, as the plain quantile of the images at hand allows, is told from it
    assert exact + 1 / (records + 1) > np.mean(missed) + 8 * np.std(missed) / np.sqrt(6000)


def dependent(rng: np.random.Generator, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of images that share most of what they are with their record; records of low values have five, the others one."""
    common = rng.normal(size=records)
    of_record = np.repeat(np.arange(records), np.where(common < 0, 5, 1))
    return common[of_record] + 0.2 * rng.normal(size=len(of_record)), of_record


def test_images_of_a_record_are_not_taken_for_independent_ones() -> None:
    rate, records, rng = 0.1, 20, np.random.default_rng(1)
    further, of_record = dependent(rng, 200_000)
    first = np.sort(further[np.flatnonzero(np.diff(of_record, prepend=-1))])  # one image of each further record
    missed, taken_for_independent = [], []
    for _ in range(4000):
        values, numbers = dependent(rng, records)
        edges = edge_at(values, numbers, rate), edge_at(values, np.arange(len(values)), rate)
        missed_of = [1 - np.searchsorted(first, edge) / len(first) for edge in edges]
        missed.append(missed_of[0])
        taken_for_independent.append(missed_of[1])
    assert rate - 1 / (records + 1) <= np.mean(missed) <= rate + 0.003
    assert np.mean(taken_for_independent) > 2 * rate


def drawn(shift: float, records: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = np.tile([0, 1], records)
    return np.random.default_rng(seed).normal(size=2 * records) + shift * labels, labels, np.repeat(np.arange(records), 2)


RATES = {"false_positive_rate": 0.01, "false_negative_rate": 0.05}


@pytest.mark.parametrize(("shift", "between"), [(1.0, "both"), (8.0, "neither")])
def test_both_rates_hold_whether_the_edges_cross_or_not(shift: float, between: str) -> None:
    bands = fix_bands(*drawn(shift, 2000), **RATES)
    assert bands.between == between
    logits, labels, _ = drawn(shift, 100_000, seed=1)
    assert bands.likely_real_to < bands.likely_generated_from
    false_positives = bands.likely_generated(logits[labels == 0]).mean()
    false_negatives = bands.likely_real(logits[labels == 1]).mean()
    # of one validation part the rate is a draw of a Beta distribution, whose deviation is 0.0022 and 0.005
    assert false_positives < 0.018
    assert false_negatives < 0.07
    assert (false_positives > 0.001) == (between == "both")
    assert not (bands.likely_generated(logits) & bands.likely_real(logits)).any()


def test_too_few_records_get_the_band_that_they_can_support_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    logits, labels, records = drawn(1.0, 30)
    bands = fix_bands(logits, labels, records, **RATES)
    assert bands.false_positive_rate == pytest.approx(1 / 31)
    assert bands.false_negative_rate == 0.05
    assert bands.likely_generated_from == np.nextafter(logits[labels == 0].max(), np.inf)
    with caplog.at_level(logging.WARNING, logger="rdd"):
        _warn_of_few_records(bands, **RATES)
    (warning,) = caplog.messages
    assert "evaluate.band_false_positive_rate 0.01 takes at least 99 validation records with a real image" in warning
    assert "there are 30: the band is at 0.032" in warning
    logits, labels, records = drawn(1.0, 99)
    assert fix_bands(logits, labels, records, **RATES).false_positive_rate == 0.01


def test_bands_move_with_the_logits_and_do_not_depend_on_the_order() -> None:
    logits, labels, records = drawn(1.0)
    bands, order = fix_bands(logits, labels, records, **RATES), np.random.default_rng(0).permutation(len(logits))
    assert fix_bands(logits[order], labels[order], 7 * records[order], **RATES) == bands
    swapped = fix_bands(-logits, 1 - labels, records, false_positive_rate=0.05, false_negative_rate=0.01)
    assert swapped.likely_real_to == -bands.likely_generated_from
    moved = fix_bands(logits - 0.5, labels, records, **RATES)
    assert moved.likely_generated_from == pytest.approx(bands.shifted(0.5).likely_generated_from)
    doubled = fix_bands(np.tile(logits, 2), np.tile(labels, 2), np.tile(records, 2), **RATES)
    assert doubled == bands  # twice the images of the same records tell nothing more


@pytest.mark.parametrize("threshold", [-3.0, 0.0, 3.0])
def test_verdict_and_threshold_never_contradict_each_other(threshold: float) -> None:
    logits, labels, records = drawn(1.0)
    bands = fix_bands(logits, labels, records, **RATES)
    around, at = bands.around(threshold), np.append(logits, threshold)
    assert not (around.likely_real(at) & (at >= threshold)).any()
    assert not (around.likely_generated(at) & (at < threshold)).any()
    assert (around.likely_real(at) <= bands.likely_real(at)).all()
    assert (around.likely_generated(at) <= bands.likely_generated(at)).all()
    if bands.likely_real_to < threshold < bands.likely_generated_from:
        assert around == bands


def test_a_shift_of_the_log_odds_moves_threshold_bands_and_probabilities_together() -> None:
    bands = fix_bands(*drawn(1.0), **RATES, levels=[0.9])
    calibration = Calibration(threshold=1.0, false_positive_rate=0.05, slope=2.0, offset=-1.0, prior=0.5, bands=bands)
    shifted, logits = calibration.shifted(0.8), np.array([-1.0, 0.3, 2.0])
    assert shifted.log_odds(logits) == pytest.approx(calibration.log_odds(logits + 0.4))
    assert shifted.threshold == pytest.approx(0.6)
    assert shifted.bands.conformal[0].real_below == pytest.approx(bands.conformal[0].real_below - 0.4)
    with pytest.raises(ValueError, match="must be above 0 to be shifted, got -1"):
        replace(calibration, slope=-1.0).shifted(0.1)


def test_what_bands_refuse() -> None:
    bands = fix_bands(*drawn(1.0), **RATES, levels=[0.9])
    written = json.loads(json.dumps(asdict(bands)))
    assert Bands.from_json(written) == bands
    for change, said in (
        ({"likely_real_to": 1e9}, "bands.likely_real_to must be at most"),
        ({"likely_real_to": float("nan")}, "must be a finite number, got nan"),
        ({"between": "all"}, "bands.between must be both or neither, got 'all'"),
        ({"false_positive_rate": 1.0}, "bands.false_positive_rate must lie in"),
        ({"real_records": 0}, "must be at least 1, got 0 and 200"),
        ({"more": 1}, "bands must hold what rdd.bands.Bands describes"),
    ):
        with pytest.raises(ValueError, match=said):
            Bands.from_json(written | change)
    with pytest.raises(ValueError, match="conformal.level must lie in"):
        ConformalSet(level=1.0, real_below=0.0, generated_above=0.0)
