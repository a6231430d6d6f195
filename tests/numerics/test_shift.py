"""A shift that was planted is found again, whatever the labels are like, and its interval covers it."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from rdd.evaluation.scores import Scored
from rdd.evaluation.shift import fit_shift, shifts


def labelled(images: int, *, planted: float, share: float = 0.5, seed: int = 0, separation: float = 2.0) -> Scored:
    """Two images a record, whose log-odds under equal shares are their logit plus the planted shift."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(images) < share).astype(int)
    labels[:2] = 0, 1
    logits = separation * (2 * labels - 1) + np.sqrt(2 * separation) * rng.normal(size=images) - planted
    return Scored.named(logits, labels, np.where(labels, "a", "real"), np.arange(images) // 2)


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("planted", [-3.0, 0.0, 1.5])
def test_a_planted_shift_is_found_whatever_the_share_of_generated_labels(planted: float, share: float) -> None:
    scored = labelled(20_000, planted=planted, share=share)
    shift = fit_shift(scored, scored.logits, resamples=2, seed=0)
    assert shift.log_odds == pytest.approx(planted, abs=0.1)
    assert sum(shift.labels.values()) == 20_000


def test_the_interval_covers_the_planted_shift() -> None:
    covered = 0
    for seed in range(150):
        scored = labelled(60, planted=1.0, seed=seed)
        low, high = fit_shift(scored, scored.logits, resamples=200, seed=seed).interval
        covered += low <= 1.0 <= high
    assert 0.86 <= covered / 150 <= 0.99


def test_it_is_the_maximum_of_the_stated_function() -> None:
    scored, rng = labelled(30, planted=0.7), np.random.default_rng(0)
    weights = rng.integers(0, 3, 30).astype(float)
    weights[:2] = 1
    sign, generated = 2 * scored.labels - 1, scored.labels == 1

    def loss(delta: float) -> float:
        each = np.logaddexp(0, -sign * (scored.logits + delta))
        means = [np.average(each[of], weights=weights[of]) for of in (generated, ~generated)]
        return float(np.mean(means) + delta**2 / (200 * weights.sum()))

    expected = minimize_scalar(loss, bounds=(-20, 20), method="bounded", options={"xatol": 1e-9}).x
    assert shifts(scored.logits, scored.labels, weights[None])[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("logits", [[-5.0, 5.0], [-2000.0, 3000.0], [4.0, 4.0], [900.0, 901.0], [7.0, -7.0]])
def test_labels_that_are_separated_or_all_on_one_side_give_a_finite_shift(logits: list[float]) -> None:
    scored = Scored.named(np.array(logits), np.array([0, 1]), ["real", "a"], np.arange(2))
    shift = fit_shift(scored, scored.logits, resamples=10, seed=0)
    assert abs(shift.log_odds) <= abs(np.mean(logits)) + 1
    assert np.isfinite(shift.log_odds)
    assert shift.interval is None  # each class is of one record


def test_it_does_not_depend_on_the_order_or_on_a_shift_that_is_there_already() -> None:
    scored, order = labelled(200, planted=1.0), np.random.default_rng(0).permutation(200)
    shift = fit_shift(scored, scored.logits, resamples=2, seed=0).log_odds
    assert fit_shift(scored.of(order), scored.logits[order], resamples=2, seed=0).log_odds == pytest.approx(shift)
    assert fit_shift(scored, scored.logits + shift, resamples=2, seed=0).log_odds == pytest.approx(0, abs=0.01)


def test_labels_of_one_class_are_refused() -> None:
    scored = labelled(20, planted=0.0).of(np.arange(20) == 0)
    with pytest.raises(ValueError, match="labels of both classes are needed for a shift, got 1 of one class"):
        fit_shift(scored, scored.logits, resamples=2, seed=0)
