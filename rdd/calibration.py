"""Calibration of a trained head on the validation part: a decision threshold, and probabilities from logits (Platt)."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from rdd.engine import predict
from rdd.features import FeatureTable, TextMode
from rdd.metrics import threshold_at
from rdd.model import DetectorHead


@dataclass(frozen=True)
class Calibration:
    """A threshold at a stated false-positive rate, and Platt's line from logit to log-odds."""

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

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
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
        Platt, Probabilistic outputs for support vector machines (1999).
    """
    from sklearn.linear_model import LogisticRegression

    logits, labels = predict(head, table, images, text_mode).numpy(), table.labels[images].numpy()
    # the next number above, since an image at the threshold is called generated
    threshold = float(np.nextafter(threshold_at(logits[labels == 0], false_positive_rate), np.inf))
    platt = LogisticRegression().fit(logits[:, None], labels)
    return Calibration(
        threshold=threshold,
        false_positive_rate=false_positive_rate,
        slope=float(platt.coef_[0, 0]),
        offset=float(platt.intercept_[0]),
        prior=float(labels.mean()),
    )
