"""Calibration of a trained head on the validation part: a decision threshold, and probabilities from logits.

Platt's line has a slope and an offset; a temperature has a slope alone. Which of them is taken is decided by log loss on
held-out folds of the validation part, since on the images that it was fitted to the line with more freedom always wins.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from rdd.engine import predict
from rdd.features import FeatureTable, TextMode
from rdd.metrics import threshold_at
from rdd.model import DetectorHead

CalibrationMethod = Literal["platt", "temperature"]

_FOLDS = 5
"""Of the validation part, by records, or as many as there are records of the rarer class."""


@dataclass(frozen=True)
class Calibration:
    """A threshold at a stated false-positive rate, and a line from logit to log-odds."""

    threshold: float
    """Logit at and above which an image is called generated."""
    false_positive_rate: float
    """False-positive rate on the validation part that the threshold was chosen for."""
    slope: float
    """Increase of the log-odds per unit of the logit."""
    offset: float
    """Log-odds at logit 0."""
    prior: float
    """Share of generated images that the probabilities assume: that of the validation part."""
    method: CalibrationMethod = "platt"
    """platt: slope and offset were fitted; temperature: the slope alone, the offset is that of the prior."""

    def __post_init__(self) -> None:
        if self.method not in get_args(CalibrationMethod):
            raise ValueError(f"method must be one of {', '.join(get_args(CalibrationMethod))}, got {self.method!r}")
        numbers = {name: value for name, value in asdict(self).items() if name != "method"}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
        for name in ("false_positive_rate", "prior"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in (0, 1), got {getattr(self, name)}")

    def log_odds(self, logits: np.ndarray) -> np.ndarray:
        """Log-odds of being generated, ``(N,)``, where both classes are equally frequent."""
        return self.slope * logits + self.offset - math.log(self.prior / (1 - self.prior))

    def probability(self, logits: np.ndarray) -> np.ndarray:
        """Probability of being generated, ``(N,)`` in [0, 1], under ``prior``."""
        return 1 / (1 + np.exp(-(self.slope * logits + self.offset)))

    def described(self) -> dict[str, Any]:
        """As it stands in ``detector.json``."""
        values = asdict(self)
        return {name: values.pop(name) for name in ("threshold", "false_positive_rate")} | {"calibration": values}


def calibrate(
    head: DetectorHead, table: FeatureTable, *, images: Tensor, text_mode: TextMode, false_positive_rate: float
) -> Calibration:
    """Threshold and probabilities of a trained head.

    Args:
        head: the head; put into evaluation mode.
        table: the features.
        images: ``(n,)`` images of the validation part, of both classes.
        text_mode: as in training.
        false_positive_rate: share, in (0, 1), of real images that may be called generated.

    Reference:
        Platt, Probabilistic outputs for support vector machines (1999); Guo et al., On calibration of modern neural networks
        (2017).
    """
    logits, labels = predict(head, table, images, text_mode).numpy(), table.labels[images].numpy()
    # the next number above, since an image at the threshold is called generated
    threshold = float(np.nextafter(threshold_at(logits[labels == 0], false_positive_rate), np.inf))
    losses = held_out_losses(logits, labels, table.record_of[images].numpy())
    method = min(losses, key=losses.__getitem__)  # of equal ones the first, which is Platt's
    slope, offset = fit_line(logits, labels, method)
    return Calibration(
        threshold=threshold,
        false_positive_rate=false_positive_rate,
        slope=slope,
        offset=offset,
        prior=float(labels.mean()),
        method=method,
    )


def fit_line(logits: np.ndarray, labels: np.ndarray, method: CalibrationMethod) -> tuple[float, float]:
    """Slope and offset from logit to log-odds, by logistic regression.

    Args:
        logits: ``(N,)``.
        labels: ``(N,)``: 0 real, 1 generated, both present.
        method: platt fits both; temperature the slope alone, and a logit of 0 keeps the classes' own shares.
    """
    from sklearn.linear_model import LogisticRegression

    if method == "platt":
        platt = LogisticRegression().fit(logits[:, None], labels)
        return float(platt.coef_[0, 0]), float(platt.intercept_[0])
    shares = np.where(labels == 1, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))  # as if both were equally frequent
    line = LogisticRegression(fit_intercept=False).fit(logits[:, None], labels, sample_weight=shares)
    return float(line.coef_[0, 0]), float(np.log(labels.mean() / (1 - labels.mean())))


def held_out_losses(logits: np.ndarray, labels: np.ndarray, records: np.ndarray) -> dict[CalibrationMethod, float]:
    """Mean log loss of each method on folds that it was not fitted to.

    Args:
        logits: ``(N,)``.
        labels: ``(N,)``: 0 real, 1 generated.
        records: ``(N,)``: images of one record lie in one fold.

    Returns:
        By method, nats an image; Platt's line alone, with 0, where a class is of one record and nothing can be held out.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    fewest = min(len(np.unique(records[labels == label])) for label in (0, 1))
    if fewest < 2:
        return {"platt": 0.0}
    folds = list(StratifiedGroupKFold(min(_FOLDS, fewest), shuffle=True, random_state=0).split(logits, labels, records))
    whole = [(fitted, held) for fitted, held in folds if len(held) and len(np.unique(labels[fitted])) == 2]
    losses: dict[CalibrationMethod, float] = {}
    for method in get_args(CalibrationMethod):
        total = 0.0
        for fitted, held in whole:
            slope, offset = fit_line(logits[fitted], labels[fitted], method)
            log_odds = slope * logits[held] + offset
            total += float(np.logaddexp(0, np.where(labels[held] == 1, -log_odds, log_odds)).sum())
        losses[method] = total / sum(len(held) for _, held in whole) if whole else 0.0
    return losses
