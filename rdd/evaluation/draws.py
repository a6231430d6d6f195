"""One bootstrap over records for everything that is reported of a set, so that all its numbers are of the same draws."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rdd.evaluation.bootstrap import RecordWeightedAuc, blocks_of_counts
from rdd.evaluation.curve import CURVE_METRICS, RecordWeightedCurve
from rdd.evaluation.means import Column, RecordWeightedMeans
from rdd.evaluation.scores import Scored


@dataclass(frozen=True)
class Draws:
    """Values found, and those of each draw."""

    pairs: np.ndarray
    """``(2, 1 + G)``: pairs ranked right, a tie counted half, and pairs; of all images and of each generator by name."""
    drawn_pairs: np.ndarray
    """``(draws, 2, 1 + G)``."""
    values: dict[str, float]
    """By name of :data:`rdd.evaluation.curve.CURVE_METRICS` or of a column."""
    drawn: dict[str, np.ndarray]
    """By the same name, ``(draws,)``."""
    records: int


def draw(scored: Scored, means: RecordWeightedMeans, *, resamples: int, seed: int) -> Draws:
    """Draw whole records with replacement.

    Args:
        scored: both classes must be present.
        means: of the same images.
        resamples: how many draws.
        seed: of the draws.
    """
    groups = np.zeros(len(scored.logits), dtype=np.int16)
    for number, images in enumerate(scored.generated_by().values()):
        groups[images] = number
    aucs = RecordWeightedAuc(scored.logits, scored.labels, scored.records, groups)
    curve = RecordWeightedCurve(scored.logits, scored.labels, scored.records)
    names = (*CURVE_METRICS, *means.names)
    found = np.ones((1, aucs.records), dtype=np.int32)
    rows, pairs = [], []
    for counts in blocks_of_counts(aucs.records, len(scored.logits), resamples=resamples, seed=seed):
        pairs += [np.stack(aucs.ranked_right(one)) for one in counts]
        rows.append(np.concatenate([curve(counts), means(counts)], axis=1))
    drawn = np.concatenate(rows)
    values = np.concatenate([curve(found), means(found)], axis=1)[0]
    return Draws(
        pairs=np.stack(aucs.ranked_right(found[0])),
        drawn_pairs=np.stack(pairs),
        values=dict(zip(names, values.tolist(), strict=True)),
        drawn={name: drawn[:, number] for number, name in enumerate(names)},
        records=aucs.records,
    )


def drawn_means(
    scored: Scored, columns: Mapping[str, Column], *, resamples: int, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Means of some quantities by name, ``(1,)`` as found and ``(draws,)``, by the draws that :func:`draw` makes of this seed.

    Args:
        scored: the images.
        columns: quantities of them.
        resamples: how many draws.
        seed: of the draws.
    """
    means = RecordWeightedMeans(scored.records, columns)
    blocks = blocks_of_counts(means.records, len(scored.logits), resamples=resamples, seed=seed)
    drawn = np.concatenate([means(counts) for counts in blocks])
    found = means(np.ones((1, means.records), dtype=np.int32))
    values, draws = (dict(zip(means.names, of.T, strict=True)) for of in (found, drawn))
    return values, draws
