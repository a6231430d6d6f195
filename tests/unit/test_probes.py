import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from rdd.config import AblateConfig
from rdd.evaluation.probes import PROBES, probe_logits
from rdd.metrics import auroc


def two_classes(number: int = 300, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Features of very unequal scales; the classes differ in the smallest column alone."""
    rng = np.random.default_rng(0)
    labels = np.arange(number) % 3 // 2
    features = rng.standard_normal((number, width)).astype(np.float32)
    features[:, 0] += 2.5 * labels
    return features * np.logspace(-2, 2, width, dtype=np.float32), labels


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_finds_a_difference_in_a_small_column_and_none_where_labels_are_random(name: str) -> None:
    features, labels = two_classes()
    train, batches = slice(0, 200), [features[200:230], features[230:]]
    logits = probe_logits(name, features[train], labels[train], batches, AblateConfig())
    assert logits.shape == (100,)
    assert logits.dtype == np.float64
    assert auroc(logits, labels[200:]) > 0.85
    found = []
    for seed in range(10):
        shuffled = np.random.default_rng(seed).permutation(labels[train])
        found.append(auroc(probe_logits(name, features[train], shuffled, batches, AblateConfig()), labels[200:]))
    assert abs(np.mean(found) - 0.5) < 0.15


def test_logistic_regression_is_scikit_learns_with_the_c_that_is_set() -> None:
    features, labels = two_classes()
    features = features.astype(np.float64)
    scaled = (features - features.mean(0)) / features.std(0)
    for c in (0.01, 1.0):
        expected = LogisticRegression(C=c, max_iter=2000).fit(scaled, labels).decision_function(scaled)
        found = probe_logits("logistic_regression", features, labels, [features], AblateConfig(probe_c=c))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_neighbours_are_those_of_each_class_by_hand() -> None:
    features, labels = two_classes(number=40)
    scaled = (features.astype(np.float64) - features.mean(0, dtype=np.float64)) / features.std(0, dtype=np.float64)
    apart = np.linalg.norm(scaled[:, None] - scaled[None], axis=2)
    for number in (3, 1000):  # more than there are: all of them
        real, generated = (np.sort(apart[:, labels == label], axis=1)[:, :number].mean(1) for label in (0, 1))
        found = probe_logits("nearest_neighbours", features, labels, [features], AblateConfig(probe_neighbours=number))
        np.testing.assert_allclose(found, real - generated, atol=1e-6)
