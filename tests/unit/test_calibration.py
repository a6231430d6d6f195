"""Which line is taken from logits to log-odds, and that its probabilities hold."""

import numpy as np
import pytest

from rdd.calibration import Calibration, fit_line, held_out_losses

GIVEN = {"threshold": 1.0, "false_positive_rate": 0.05, "slope": 2.0, "offset": 1.0, "prior": 0.8}


def drawn(offset: float, slope: float = 0.5, images: int = 20_000, share: float = 0.5) -> tuple[np.ndarray, ...]:
    """Images whose log-odds under equal shares are ``slope`` times the logit plus ``offset``, two of a record."""
    rng = np.random.default_rng(0)
    labels = (rng.random(images) < share).astype(int)
    log_odds = np.where(labels, 1.0, -1.0) * 2 + 2 * rng.normal(size=images)  # 4 / 2^2 = 1 nat a unit
    return (log_odds - offset) / slope, labels, np.arange(images) // 2


@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_the_line_that_made_the_logits_is_found(method: str, share: float) -> None:
    logits, labels, _ = drawn(0.0, share=share)
    slope, offset = fit_line(logits, labels, method)
    assert slope == pytest.approx(0.5, abs=0.02)
    assert offset == pytest.approx(np.log(share / (1 - share)), abs=0.1)


def test_an_offset_that_is_there_calls_for_platt() -> None:
    losses = held_out_losses(*drawn(2.0))
    assert losses["platt"] < losses["temperature"] - 0.01
    without = held_out_losses(*drawn(0.0))
    assert without["platt"] == pytest.approx(without["temperature"], abs=1e-3)


def test_with_few_images_the_line_of_less_freedom_is_taken_more_often() -> None:
    chosen = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        labels = np.tile([0, 1], 12)
        losses = held_out_losses(2 * labels - 1 + rng.normal(size=24), labels, np.repeat(np.arange(12), 2))
        chosen.append(min(losses, key=losses.__getitem__))
    assert chosen.count("temperature") > 20


def test_where_nothing_can_be_held_out_platts_line_is_left() -> None:
    assert held_out_losses(np.array([0.0, 1.0, 2.0]), np.array([0, 1, 1]), np.array([0, 0, 1])) == {"platt": 0.0}


def test_log_odds_are_those_of_equal_shares() -> None:
    calibration = Calibration(**GIVEN)
    logits = np.array([-1.0, 0.0, 3.0])
    odds = np.exp(calibration.log_odds(logits))
    assert 0.8 * odds / (0.2 + 0.8 * odds) == pytest.approx(calibration.probability(logits))
    assert calibration.described()["calibration"]["method"] == "platt"
    with pytest.raises(ValueError, match="method must be one of platt, temperature, got 'isotonic'"):
        Calibration(**GIVEN, method="isotonic")
