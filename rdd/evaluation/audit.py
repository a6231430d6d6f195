"""The leak audit: how well each property of files and captions tells real from generated images, without a look at pixels.

A detector is trained to tell them apart by any means. Where the classes differ in format, size or words, a high AUC may be
owed to that, and falls where it is gone. So a simple classifier is fitted to each property alone, on some records, and ranks
the images of others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdd.config import AuditConfig
from rdd.evaluation.bootstrap import RecordWeightedAuc, bound_without_errors, interval, resampled_counts
from rdd.evaluation.leak_properties import PROPERTIES, Property, Values
from rdd.features.image_facts import ImageFacts

_LEAVES = 16
_C = 1.0  # of a logistic regression on words, scikit-learn's default: a probe that is tuned would be another detector


@dataclass(frozen=True)
class Finding:
    """What an audit has found of one property."""

    name: str
    question: str
    auroc: float | None
    """Cross-validated by records; None where it can not be told."""
    interval: list[float] | None
    """95 %, by resampling records; where no pair is mis-ranked, a one-sided bound and 1."""
    red: bool
    """Whether the lower end of the interval lies above ``audit.red_above``."""
    real_images: int
    generated_images: int
    """Of which the property is known."""
    unknown: str | None
    """Why there is no AUC; None where there is one."""


def columns_needed(properties: Sequence[Property] = PROPERTIES) -> list[str]:
    """Columns of the files of features that the properties are computed from."""
    return list(dict.fromkeys(name for one in properties for name in one.columns))


def audit(images: ImageFacts, config: AuditConfig, properties: Sequence[Property] = PROPERTIES) -> list[Finding]:
    """Ask each property whether it tells the classes apart.

    Args:
        images: what is known of them, with the columns of :func:`columns_needed`.
        config: folds, resamples, seed, and from where a leak is red.
        properties: which.

    Returns:
        A finding each, in their order.
    """
    return [_finding(one, images, config) for one in properties]


def _finding(one: Property, images: ImageFacts, config: AuditConfig) -> Finding:
    values = one.values(images)
    known = _known(values)
    labels, records = images.labels[known], images.record_of[known]
    real, generated = int((labels == 0).sum()), int((labels == 1).sum())
    auc, bounds, why = None, None, _why_unknown(labels, records)
    if why is None:
        auc, bounds = cross_validated_auc(values[known], labels, records, config)
    red = bounds is not None and bounds[0] > config.red_above
    return Finding(one.name, one.question, auc, bounds, red, real, generated, why)


def _known(values: Values) -> np.ndarray:
    """``(N,)`` bool: of which images there is a value."""
    if values.dtype == object:
        return np.array([value is not None for value in values], dtype=bool)
    return ~np.isnan(values).any(axis=1)


def _why_unknown(labels: np.ndarray, records: np.ndarray) -> str | None:
    """Why images can not tell of a property, if they can not."""
    if not len(labels):
        return "the features do not hold it"
    counts = [len(np.unique(records[labels == label])) for label in (0, 1)]
    for name, count in zip(("real", "generated"), counts, strict=True):
        if count < 2:
            return f"{count or 'no'} record{'' if count == 1 else 's'} with a {name} image of which it is known"
    return None


def cross_validated_auc(
    values: Values, labels: np.ndarray, records: np.ndarray, config: AuditConfig
) -> tuple[float, list[float] | None]:
    """AUC of a classifier fitted to the other folds, over the pairs of images of one fold, and its interval.

    The scores of two classifiers are not on one scale, so that only pairs within a fold are ranked.

    Args:
        values: ``(N, C)`` numbers or ``(N,)`` texts, all known.
        labels: ``(N,)``: 0 real, 1 generated; at least two records of each.
        records: ``(N,)`` record of each image.
        config: folds, at most as many as a class has records; resamples and seed.

    Returns:
        The AUC, and its 95 % interval by resampling records with the classifiers as they are.
    """
    if (values == values[0]).all():
        return 0.5, [0.5, 0.5]  # it is the same of all images
    ids, numbers = np.unique(records, return_inverse=True)
    fold_of_record = folds_by_record(numbers, labels, folds=config.folds, seed=config.seed)
    scorer = _scores_of_words if values.dtype == object else _scores_of_numbers
    ranked: list[tuple[np.ndarray, RecordWeightedAuc]] = []
    for fold in range(fold_of_record.max() + 1):
        tested = fold_of_record[numbers] == fold
        scores = scorer(values[~tested], labels[~tested], values[tested])
        in_fold = np.flatnonzero(fold_of_record == fold)
        ranked.append((in_fold, RecordWeightedAuc(scores, labels[tested], numbers[tested])))
    right, pairs = _ranked_right(ranked, np.ones(len(ids), dtype=np.int32))
    if right == pairs:
        return 1.0, [bound_without_errors(records, labels), 1.0]
    drawn = [
        _ranked_right(ranked, counts) for counts in resampled_counts(len(ids), resamples=config.resamples, seed=config.seed)
    ]
    with np.errstate(invalid="ignore"):
        aucs = np.array([one for one, _ in drawn]) / np.array([of for _, of in drawn])
    return right / pairs, interval(aucs)


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


def _scores_of_numbers(values: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """A small decision tree, since classes may differ in a number neither being larger in one: sizes of one class are round."""
    from sklearn.tree import DecisionTreeClassifier

    least = max(2, len(labels) // 100)
    tree = DecisionTreeClassifier(max_leaf_nodes=_LEAVES, min_samples_leaf=least, class_weight="balanced", random_state=0)
    return tree.fit(values, labels).predict_proba(asked)[:, 1]


def _scores_of_words(texts: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
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


def red_leaks(findings: Sequence[Finding]) -> list[str]:
    """Names of the properties that are red leaks."""
    return [one.name for one in findings if one.red]


def as_markdown(findings: Sequence[Finding], config: AuditConfig) -> str:
    """The findings as a table, and what a reader has to know of it."""
    columns: dict[str, Callable[[Finding], str]] = {
        "property": lambda one: one.name,
        "AUC": lambda one: "" if one.auroc is None else f"{one.auroc:.3f}",
        "95 % interval": lambda one: "unknown" if one.interval is None else f"[{one.interval[0]:.3f}, {one.interval[1]:.3f}]",
        "leak": lambda one: "**red**" if one.red else "",
        "real": lambda one: f"{one.real_images:,}",
        "generated": lambda one: f"{one.generated_images:,}",
        "what it is": lambda one: one.question if one.unknown is None else f"{one.question}; unknown: {one.unknown}",
    }
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[cell(one) for cell in columns.values()] for one in findings]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        f"{table}\n\nAUC of a small classifier that sees this property alone, cross-validated over {config.folds} folds by "
        "record; 0.5 tells nothing. Red: the lower end of the interval, by resampling records, lies above "
        f"{config.red_above:g}. What a detector finds in images may be owed to a red leak.\n"
    )


def as_numbers(findings: Sequence[Finding]) -> dict[str, dict[str, Any]]:
    """By name, what was found."""
    return {one.name: {name: value for name, value in vars(one).items() if name != "name"} for one in findings}
