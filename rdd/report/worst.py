"""The most wrongly scored images: real ones by the largest logits, generated ones by the smallest."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rdd import storage
from rdd.evaluation.scores import Scored


@dataclass(frozen=True)
class WorstImage:
    """One of them."""

    rank: int
    """From 1, the most wrongly scored."""
    record_id: str
    generator: str
    """``real`` for a real image."""
    nth: int
    """Which of the record's images of this generator, from 0."""
    logit: float
    is_wrong: bool
    """Whether the detector's threshold puts it into the wrong class."""


def worst_images(logits_file: str, scored: Scored, *, threshold: float, number: int) -> dict[int, list[WorstImage]]:
    """By label, the worst images of a class.

    Args:
        logits_file: what :func:`rdd.evaluation.scores.write_logits` wrote.
        scored: the same, read.
        threshold: logit at and above which an image is called generated.
        number: of images of each class, at most.
    """
    chosen: dict[int, np.ndarray] = {}
    for label, sign in ((0, -1.0), (1, 1.0)):
        images = np.flatnonzero(scored.labels == label)
        chosen[label] = images[np.argsort(sign * scored.logits[images], kind="stable")[:number]]
    names = storage.read_table(logits_file, ["record_id"], way_out="evaluate again")["record_id"].cast(pa.string())
    return {
        label: [_one(rank, int(image), names, scored, threshold) for rank, image in enumerate(images, start=1)]
        for label, images in chosen.items()
    }


def _one(rank: int, image: int, names: pa.ChunkedArray, scored: Scored, threshold: float) -> WorstImage:
    record = np.flatnonzero(scored.records == scored.records[image])
    before = Counter(scored.generator_of[record[record < image]].tolist())
    code = int(scored.generator_of[image])
    called_generated = bool(scored.logits[image] >= threshold)
    return WorstImage(
        rank=rank,
        record_id=names[image].as_py(),
        generator=scored.generators[code],
        nth=before[code],
        logit=float(scored.logits[image]),
        is_wrong=called_generated == (scored.labels[image] == 0),
    )
