"""What a verdict means: of the images that are called so, how many are, where a stated share of all images is."""

import numpy as np

from rdd.evaluation.bootstrap import interval, none_found_bound

PREVALENCE = 0.01
"""Share of generated images at which it is said what a verdict means: in most uses they are few."""


def precision_at(prevalence: float, found: np.ndarray | float, alarms: np.ndarray | float) -> np.ndarray:
    """Share of the images called so that are so; NaN where none is called so.

    Args:
        prevalence: share, in (0, 1), of images that are so.
        found: share of these that is called so, or ``(draws,)`` of them.
        alarms: the same of the others.
    """
    right = prevalence * np.asarray(found, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(right, right + (1 - prevalence) * alarms)


def precision_interval(
    prevalence: float, found: tuple[float, np.ndarray, int], alarms: tuple[float, np.ndarray, int]
) -> list[float] | None:
    """Interval (95 %) of :func:`precision_at`.

    Where no false alarm was met, draws of the same images never meet one, which says little where few images are generated: a
    rate that is too small to be met may make most of the verdicts wrong. The lower end is then that of the largest rate which
    so many records without a false alarm leave possible.

    Args:
        prevalence: share, in (0, 1), of images that are so.
        found: their share that is called so: as found, ``(draws,)`` of the bootstrap, and the records that it is of.
        alarms: the same of the others.

    Returns:
        Its ends; None where nothing is called so, or where a class is of one record.
    """
    if min(found[2], alarms[2]) < 2 or found[0] == alarms[0] == 0:
        return None
    if alarms[0] == 0:
        return [float(precision_at(prevalence, found[0], none_found_bound(alarms[2]))), 1.0]
    if found[0] == 0:
        return [0.0, float(precision_at(prevalence, none_found_bound(found[2]), alarms[0]))]
    return interval(precision_at(prevalence, found[1], alarms[1]))
