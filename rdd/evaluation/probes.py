"""Simple baselines on the features that a detector sees: what a reader would try first, and what a table must not hide."""

from collections.abc import Callable, Iterable

import numpy as np

from rdd.config import AblateConfig

Scorer = Callable[[np.ndarray], np.ndarray]
"""Features ``(N, width)`` to logits ``(N,)`` float64; larger means generated."""


def logistic_regression(features: np.ndarray, labels: np.ndarray, options: AblateConfig) -> Scorer:
    """Logistic regression of standardised features, with a fixed C that no data chooses.

    Args:
        features: ``(n, width)`` of the training part.
        labels: ``(n,)``: 0 real, 1 generated; both are there.
        options: ``probe_c``.
    """
    return linear_scorer(features, labels, c=options.probe_c)


def linear_scorer(features: np.ndarray, labels: np.ndarray, *, c: float) -> Scorer:
    """The same with C given."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000)).fit(features, labels)
    return lambda others: fitted.decision_function(others).astype(np.float64)


def nearest_neighbours(features: np.ndarray, labels: np.ndarray, options: AblateConfig) -> Scorer:
    """Mean distance to the nearest real images less that to the nearest generated ones, in standardised features.

    Unlike a share of votes it has no ties, which would count as half right in an AUC.

    Args:
        features: ``(n, width)`` of the training part.
        labels: ``(n,)``: 0 real, 1 generated; both are there.
        options: ``probe_neighbours``, of each class; all where a class has fewer.

    Reference:
        Ojha, Li & Lee, Towards universal fake image detectors that generalize across generative models, CVPR 2023.
    """
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    banks = []
    for label in (0, 1):
        bank = scaled[labels == label]
        number = min(options.probe_neighbours, len(bank))
        banks.append(NearestNeighbors(n_neighbors=number, algorithm="brute").fit(bank))

    def score(others: np.ndarray) -> np.ndarray:
        real, generated = (bank.kneighbors(scaler.transform(others))[0].mean(axis=1) for bank in banks)
        return (real - generated).astype(np.float64)

    return score


PROBES: dict[str, Callable[[np.ndarray, np.ndarray, AblateConfig], Scorer]] = {
    "logistic_regression": logistic_regression,
    "nearest_neighbours": nearest_neighbours,
}
"""By the name of its row. A further baseline is one more entry."""


def probe_logits(
    name: str, features: np.ndarray, labels: np.ndarray, batches: Iterable[np.ndarray], options: AblateConfig
) -> np.ndarray:
    """Logits ``(N,)`` float64 of a probe.

    Args:
        name: of the probe.
        features: ``(n, width)`` to fit it on.
        labels: ``(n,)`` of them.
        batches: features of the images to score, one batch after the other.
        options: of the probe.
    """
    score = PROBES[name](features.astype(np.float64), labels, options)
    return np.concatenate([score(batch.astype(np.float64)) for batch in batches])
