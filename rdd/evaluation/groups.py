"""AUC by generator and by family, each against all real images: intervals, mean and worst, seen and unseen ones apart."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from rdd.evaluation.bootstrap import bound_without_errors, interval
from rdd.evaluation.scores import Scored
from rdd.evaluation.simultaneous import Simultaneous, simultaneous


@dataclass(frozen=True)
class Known:
    """What is known of generators besides their images."""

    families: Mapping[str, Sequence[str]]
    """By name of a family, wildcards of its generators; a generator that none matches is a family of its own."""
    seen: Collection[str] | None
    """Generators that the detector was trained or selected on; None where nobody noted them."""

    def family(self, generator: str) -> str:
        """The first family that the generator belongs to, else its own name."""
        matching = (family for family, names in self.families.items() if any(fnmatchcase(generator, name) for name in names))
        return next(matching, generator)


@dataclass(frozen=True)
class Groups:
    """Sets of generators and their AUCs."""

    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]
    """Of each, ``(N,)`` bool of its generated images."""
    aurocs: np.ndarray
    """``(G,)``."""
    drawn: np.ndarray
    """``(draws, G)`` of the bootstrap, the same draw of records in a row."""
    lowest: np.ndarray
    """``(G,)`` lower bound of an AUC of 1."""
    varied: np.ndarray
    """``(G,)`` bool: whether both classes are of more than one record, so that there is something to draw from."""


def groups_of(scored: Scored, parts: Mapping[str, Sequence[str]], pairs: np.ndarray, drawn: np.ndarray) -> Groups:
    """AUCs of sets of generators.

    Args:
        scored: logits of all images.
        parts: by name of a set, its generators.
        pairs: ``(2, 1 + G)`` pairs ranked right, and pairs, of all images and of each generator in alphabetical order.
        drawn: ``(draws, 2, 1 + G)`` the same by draw.
    """
    by_generator = scored.generated_by()
    place = {name: number for number, name in enumerate(by_generator, start=1)}
    real = scored.labels == 0
    images = tuple(np.logical_or.reduce([by_generator[name] for name in names]) for names in parts.values())
    columns = [[place[name] for name in names] for names in parts.values()]
    right = np.stack([pairs[:, of].sum(axis=1) for of in columns], axis=1)
    draws = np.stack([drawn[:, :, of].sum(axis=2) for of in columns], axis=2)
    with np.errstate(invalid="ignore"):
        aurocs, drawn_aurocs = 1 - (right[1] - right[0]) / right[1], draws[:, 0] / draws[:, 1]
    lowest = [bound_without_errors(scored.records[real | of], scored.labels[real | of]) for of in images]
    real_records = len(np.unique(scored.records[real]))
    varied = np.array([min(real_records, len(np.unique(scored.records[of]))) > 1 for of in images])
    return Groups(tuple(parts), images, aurocs, drawn_aurocs, np.array(lowest), varied)


def single_intervals(groups: Groups) -> list[list[float] | None]:
    """95 % interval of each group on its own; a one-sided bound where no pair is mis-ranked, None without records to draw."""
    intervals: list[list[float] | None] = []
    for number, auroc in enumerate(groups.aurocs.tolist()):
        if auroc == 1:
            intervals.append([float(groups.lowest[number]), 1.0])
        else:
            intervals.append(interval(groups.drawn[:, number]) if groups.varied[number] else None)
    return intervals


def together(groups: Groups) -> Simultaneous:
    """Intervals that hold for all groups at once; none where a group is of one record."""
    drawn = np.where(groups.varied | (groups.aurocs == 1), groups.drawn, np.nan)
    return simultaneous(groups.aurocs, drawn, groups.lowest)


def mean_and_worst(groups: Groups) -> dict[str, Any]:
    """Mean of the groups' AUCs and the smallest of them, with intervals.

    Returns:
        ``mean_auroc`` with ``mean_auroc_interval``, ``worst`` (a name), ``worst_auroc``, and ``worst_auroc_interval``: of the
        smallest true AUC, whichever group it is of, simultaneous over the groups.
    """
    both, worst = together(groups), int(np.argmin(groups.aurocs))
    return {
        "mean_auroc": float(groups.aurocs.mean()),
        "mean_auroc_interval": both.mean,
        "worst": groups.names[worst],
        "worst_auroc": float(groups.aurocs[worst]),
        "worst_auroc_interval": both.worst,
    }


def by_novelty(names: Sequence[str], known: Known) -> dict[str, list[str]]:
    """Generators seen and unseen in training, those of which there are some; ``all`` where that is not known."""
    if known.seen is None:
        return {"all": list(names)}
    parts = {"seen": [name for name in names if name in known.seen], "unseen": [n for n in names if n not in known.seen]}
    return {part: some for part, some in parts.items() if some}
