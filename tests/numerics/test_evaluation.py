from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.optimize import brentq
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from rdd import storage
from rdd.calibration import Calibration
from rdd.evaluation import bootstrap
from rdd.evaluation.bootstrap import RecordWeightedAuc, interval, resampled_counts
from rdd.evaluation.figures import _drawn_roc
from rdd.evaluation.report import evaluate
from rdd.evaluation.scores import Scored, read_logits
from rdd.metrics import equal_error_rate, rate_above, threshold_at, true_positive_rate


def scored_set(records: int = 200, shift: float = 1.5, seed: int = 0) -> Scored:
    """Records of one real and two generated images whose logits share a part."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(records, 1))
    logits = shared + rng.normal(size=(records, 3)) + np.array([0.0, shift, shift / 2])
    names = np.tile(np.array(["real", "easy", "hard"]), records)
    labels = np.tile([0, 1, 1], records)
    return Scored.named(np.round(logits.ravel(), 1), labels, names, np.repeat(np.arange(records), 3))


def called_at(threshold: float) -> Calibration:
    return Calibration(threshold=threshold, false_positive_rate=0.05, slope=1.0, offset=0.0, prior=0.5)


def test_a_weighted_auc_is_that_of_repeated_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_IMAGES_AT_A_TIME", 7)  # so that the pieces of a sum have ends
    scored, rng = scored_set(), np.random.default_rng(1)
    records = 3 * scored.records - 5  # any integers
    aucs = RecordWeightedAuc(scored.logits, scored.labels, records, scored.generator_of)
    counts = rng.integers(0, 4, aucs.records)
    weights = counts[scored.records]
    drawn = aucs(counts)
    assert scored.generators == ("easy", "hard", "real")
    expected = roc_auc_score(np.repeat(scored.labels, weights), np.repeat(scored.logits, weights))
    assert drawn[0] == pytest.approx(expected, abs=1e-12)
    for code in range(2):
        keep = (scored.labels == 0) | (scored.generator_of == code)
        labels, logits = (np.repeat(values[keep], weights[keep]) for values in (scored.labels, scored.logits))
        assert drawn[1 + code] == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)


def test_an_auc_without_an_image_of_a_class_is_no_number() -> None:
    aucs = RecordWeightedAuc(np.array([0.0, 1.0]), np.array([0, 1]), np.array([4, 9]))
    assert aucs(np.array([1, 1])).tolist() == [1.0, 1.0]
    assert np.isnan(aucs(np.array([2, 0]))).all()
    assert np.isnan(aucs(np.array([0, 2]))).all()


def test_as_many_records_are_drawn_as_there_are() -> None:
    drawn = list(resampled_counts(50, resamples=400, seed=0))
    assert all(counts.sum() == 50 for counts in drawn)
    assert np.mean(drawn, axis=0) == pytest.approx(np.ones(50), abs=0.25)
    assert np.var(drawn) == pytest.approx(1 - 1 / 50, abs=0.05)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    truth = evaluate(scored_set(20_000, seed=99), calibration=called_at(0), resamples=100, seed=0)["auroc"]
    covered = 0
    for seed in range(100):
        low, high = evaluate(scored_set(100, seed=seed), calibration=called_at(0), resamples=200, seed=seed)["auroc_interval"]
        covered += low <= truth <= high
    assert 88 <= covered <= 100


def test_the_report_agrees_with_scikit_learn() -> None:
    scored = scored_set()
    report = evaluate(scored, calibration=called_at(1.0), resamples=100, seed=0)
    assert report["auroc"] == pytest.approx(roc_auc_score(scored.labels, scored.logits))
    assert report["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(scored.labels, scored.logits >= 1.0))
    hard = ~scored.generated_by()["easy"]
    assert report["by_generator"]["hard"]["auroc"] == pytest.approx(roc_auc_score(scored.labels[hard], scored.logits[hard]))
    assert report["worst_generator"]["name"] == "hard"
    assert report["misranked_pairs"] == pytest.approx((1 - report["auroc"]) * report["pairs"])
    false_positive, true_positive, _ = roc_curve(scored.labels, scored.logits)
    expected = brentq(lambda x: 1 - x - np.interp(x, false_positive, true_positive), 0, 1)
    assert report["equal_error_rate"] == pytest.approx(expected, abs=0.01)


def test_where_a_class_is_of_one_record_there_is_no_interval() -> None:
    scored = scored_set(1)
    report = evaluate(replace(scored, logits=np.array([0.5, 1.0, 0.0])), calibration=called_at(1.0), resamples=100, seed=0)
    assert report["auroc"] == 0.5
    assert report["auroc_interval"] is None
    assert report["by_generator"]["hard"]["auroc_interval"] is None
    assert evaluate(scored_set(2), calibration=called_at(1.0), resamples=100, seed=0)["auroc_interval"] is not None


def test_a_long_roc_curve_is_drawn_by_some_of_its_points() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 50_000)
    logits = rng.normal(size=len(labels)) + 2 * labels
    drawn, whole = np.stack(_drawn_roc(labels, logits)), np.stack(roc_curve(labels, logits, drop_intermediate=False)[:2])
    assert drawn.shape[1] <= 4000 < whole.shape[1]
    assert drawn[:, 0].tolist() == [0, 0]
    assert drawn[:, -1].tolist() == [1, 1]
    assert np.diff(drawn).max() < 0.0015  # in each direction less than two pixels
    assert {*zip(*drawn.tolist(), strict=True)} <= {*zip(*whole.tolist(), strict=True)}
    few = _drawn_roc(labels[:50], logits[:50])
    assert len(few[0]) == len(roc_curve(labels[:50], logits[:50], drop_intermediate=False)[0])


def test_a_rate_that_the_real_images_do_not_resolve_is_null() -> None:
    logits, labels = np.arange(150.0), np.array([0] * 99 + [1] * 51)
    assert true_positive_rate(logits, labels, at=0.01) is None
    assert true_positive_rate(np.append(logits, -1.0), np.append(labels, 0), at=0.01) == 1.0


def test_the_threshold_keeps_its_rate() -> None:
    real = np.random.default_rng(0).normal(size=997)
    for rate in (0.0, 0.01, 0.05, 0.5):
        threshold = np.nextafter(threshold_at(real, rate), np.inf)
        assert rate - 1 / 997 <= rate_above(real, threshold) <= rate + 1e-12


def test_equal_error_rate_at_its_ends() -> None:
    assert equal_error_rate([0.0, 1.0], [0, 1]) == 0.0
    assert equal_error_rate([1.0, 0.0], [0, 1]) == 1.0
    assert equal_error_rate([0.0, 0.0], [0, 1]) == 0.5


def test_an_interval_of_too_few_numbers_is_none() -> None:
    assert interval(np.array([np.nan, np.nan, np.nan, 1.0])) is None
    assert interval(np.array([1.0, 1.0])) == [1.0, 1.0]


@pytest.mark.parametrize("logit", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused_by_name(tmp_path: Path, logit: float) -> None:
    columns = {"record_id": ["b", "a"], "generator": ["real", "sd"], "label": [0, 1], "logit": [0.5, 1.0]}
    place = str(tmp_path / "test_logits.parquet")
    storage.write_table(place, pa.table(columns))
    scored = read_logits(place)
    assert scored.records.tolist() == [1, 0]
    assert [scored.generators[code] for code in scored.generator_of] == ["real", "sd"]
    storage.write_table(place, pa.table(columns | {"logit": [0.5, logit]}))
    with pytest.raises(RuntimeError, match=r"test_logits\.parquet holds a logit that is no finite number; delete"):
        read_logits(place)
