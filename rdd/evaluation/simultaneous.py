"""Intervals of many generators at once: the worst of them is chosen by looking, so its own interval would be too narrow."""

from dataclasses import dataclass

import numpy as np

from rdd.evaluation.bootstrap import interval


@dataclass(frozen=True)
class Simultaneous:
    """Values of several groups, and intervals that hold for all of them together with 95 %."""

    intervals: list[list[float] | None]
    """By group; None where the draws say nothing of it."""
    worst: list[float] | None
    """Of the smallest true value, whichever group has it."""
    mean: list[float] | None
    """Of the mean over groups, on its own."""


def simultaneous(
    values: np.ndarray, drawn: np.ndarray, lowest: np.ndarray | None = None, *, level: float = 0.95
) -> Simultaneous:
    r"""Intervals of shares in (0, 1] that hold together: the largest studentised deviation of a draw sets their width.

    .. math:: \mathrm{logit}(A_g) \pm c \, s_g / (A_g (1 - A_g)), \quad
        c = Q_{0.95}\left(\max_g |A^*_g - A_g| / s_g\right)

    Args:
        values: ``(G,)`` found.
        drawn: ``(draws, G)``, the same draw of records in a row.
        lowest: ``(G,)`` lower bound where every draw gives 1, which a bootstrap would take for certainty; 0 by default.
        level: of all intervals together.

    Reference:
        Westfall & Young, Resampling-based multiple testing (1993), single step.
    """
    known = ~np.isnan(drawn).any(axis=0)
    deviation = np.where(known, np.nan_to_num(drawn).std(axis=0, ddof=1), 0)
    varies = known & (deviation > 0) & (values > 0) & (values < 1)
    intervals: list[list[float] | None] = [None] * len(values)
    if varies.any():
        largest = (np.abs(drawn[:, varies] - values[varies]) / deviation[varies]).max(axis=1)
        reach = np.quantile(largest, level) * deviation / np.maximum(values * (1 - values), 1e-300)
        centre = np.log(np.maximum(values, 1e-300)) - np.log(np.maximum(1 - values, 1e-300))
        for group in np.flatnonzero(varies):
            ends = 1 / (1 + np.exp(-(centre[group] + np.array([-1, 1]) * reach[group])))
            intervals[group] = ends.tolist()
    for group in np.flatnonzero(values == 1):
        intervals[group] = [0.0 if lowest is None else float(lowest[group]), 1.0]
    whole = [one for one in intervals if one is not None]
    worst = [min(low for low, _ in whole), min(high for _, high in whole)] if len(whole) == len(values) else None
    return Simultaneous(intervals, worst, interval(drawn.mean(axis=1)) if known.all() else None)
