"""The AUC of a simple classifier on records that it was not fitted on, and its interval by resampling records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rdd.config import AuditConfig
from rdd.evaluation.bootstrap import RecordWeightedAuc, bound_without_errors, interval, resampled_counts
from rdd.evaluation.probes import linear_scorer

Values = np.ndarray
"""``(N, C)`` numbers, one row an image; a row with NaN is of an image of which the property is not known. Or ``(N,)`` objects:
texts, None where there is none."""

Fit = Callable[[Values, np.ndarray, Values, AuditConfig], np.ndarray]
"""Values and labels to fit a classifier to, and others to score: ``(M,)``, larger means generated."""

_LEAVES = 16
_C = 1.0  # of a logistic regression on words, scikit-learn's default: a probe that is tuned would be another detector


@dataclass(frozen=True)
class CrossValidated:
    """A cross-validated AUC, and what it is in each resample of records."""

    auroc: float
    drawn: np.ndarray
    """``(resamples,)`` float64; two classifiers of the same images have the same draws of records."""
    least: float
    """One-sided 95 % bound of an AUC of 1 on these records."""

    @property
    def interval(self) -> list[float] | None:
        """95 %, by resampling records, the classifiers as they are; where no pair is mis-ranked, a one-sided bound and 1."""
        return [self.least, 1.0] if self.auroc == 1 else interval(self.drawn)


def cross_validated(values: Values, labels: np.ndarray, records: np.ndarray, config: AuditConfig, fit: Fit) -> CrossValidated:
    """AUC of a classifier fitted to the other folds, over the pairs of images of one fold.

    The scores of two classifiers are not on one scale, so that only pairs within a fold are ranked.

    Args:
        values: of the images, all known.
        labels: ``(N,)``: 0 real, 1 generated; at least two records of each.
        records: ``(N,)`` record of each image.
        config: folds, at most as many as a class has records; resamples and seed.
        fit: the classifier.
    """
    least = bound_without_errors(records, labels)
    if (values == values[0]).all():  # it is the same of all images
        return CrossValidated(0.5, np.full(config.resamples, 0.5), least)
    ids, numbers = np.unique(records, return_inverse=True)
    fold_of_record = folds_by_record(numbers, labels, folds=config.folds, seed=config.seed)
    ranked: list[tuple[np.ndarray, RecordWeightedAuc]] = []
    for fold in range(fold_of_record.max() + 1):
        tested = fold_of_record[numbers] == fold
        scores = fit(values[~tested], labels[~tested], values[tested], config)
        in_fold = np.flatnonzero(fold_of_record == fold)
        ranked.append((in_fold, RecordWeightedAuc(scores, labels[tested], numbers[tested])))
    right, pairs = _ranked_right(ranked, np.ones(len(ids), dtype=np.int32))
    drawn = [
        _ranked_right(ranked, counts) for counts in resampled_counts(len(ids), resamples=config.resamples, seed=config.seed)
    ]
    with np.errstate(invalid="ignore"):
        aucs = np.array([one for one, _ in drawn]) / np.array([of for _, of in drawn])
    return CrossValidated(right / pairs, aucs, least)


def _ranked_right(ranked: Sequence[tuple[np.ndarray, RecordWeightedAuc]], counts: np.ndarray) -> tuple[float, float]:
    """Pairs of one fold ranked right, and pairs in all, with each record counted so often."""
    both = [auc.ranked_right(counts[in_fold]) for in_fold, auc in ranked]
    return sum(float(right[0]) for right, _ in both), sum(float(pairs[0]) for _, pairs in both)


def folds_by_record(record_of: np.ndarray, labels: np.ndarray, *, folds: int, seed: int) -> np.ndarray:
    """Deal records to folds, those of like classes evenly, so that each fold has both classes.

    Args:
        record_of: ``(N,)`` record of each image, from 0.
        labels: ``(N,)``: 0 real, 1 generated.
        folds: at most; no more than a class has records.
        seed: of the order in which they are dealt.

    Returns:
        ``(R,)`` fold of each record, from 0.

    Example:
        >>> folds_by_record(np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 1]), folds=5, seed=0).tolist()
        [1, 2, 0]
    """
    has = np.zeros((record_of.max() + 1, 2), dtype=bool)
    has[record_of, labels] = True
    shuffled = np.random.default_rng(seed).permutation(len(has))
    kind = np.where(has.all(1), 1, np.where(has[:, 0], 0, 2))  # a class is of one kind and the middle one: dealt without a gap
    dealt = shuffled[np.argsort(kind[shuffled], kind="stable")]
    fold_of = np.empty(len(has), dtype=np.int64)
    fold_of[dealt] = np.arange(len(has)) % min(folds, *has.sum(0))
    return fold_of


def on_numbers(values: Values, labels: np.ndarray, asked: Values, config: AuditConfig) -> np.ndarray:
    """A small decision tree, since classes may differ in a number neither being larger in one: sizes of one class are round."""
    from sklearn.tree import DecisionTreeClassifier

    least = max(2, len(labels) // 100)
    tree = DecisionTreeClassifier(max_leaf_nodes=_LEAVES, min_samples_leaf=least, class_weight="balanced", random_state=0)
    return tree.fit(values, labels).predict_proba(asked)[:, 1]


def on_words(texts: Values, labels: np.ndarray, asked: Values, config: AuditConfig) -> np.ndarray:
    """A logistic regression on the words of texts and their frequency."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b|[^\w\s]", sublinear_tf=True)  # marks are words too: prompts hold many
    probe = make_pipeline(words, LogisticRegression(C=_C, class_weight="balanced", max_iter=1000))
    try:
        return probe.fit(texts, labels).decision_function(asked)
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        return np.zeros(len(asked))  # captions of blanks alone tell nothing


def on_features(features: Values, labels: np.ndarray, asked: Values, config: AuditConfig) -> np.ndarray:
    """A logistic regression on standardised features, with ``audit.probe_c``."""
    return linear_scorer(features.astype(np.float64), labels, c=config.probe_c)(asked.astype(np.float64))
