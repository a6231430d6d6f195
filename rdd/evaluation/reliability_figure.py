"""The reliability diagram of an evaluation, as a picture."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rdd.evaluation.figures import BLACK, BLUE, GENERATED_COLOR, REAL_COLOR, new_figure, plain_text, png


def reliability_figure(report: Mapping[str, Any], title: str) -> bytes:
    """Generated share over the probability that was said, a point a bin with its 95 % interval, and the bins' images, as PNG.

    Args:
        report: of :func:`rdd.evaluation.report.evaluate`.
        title: of the whole.
    """
    bins = report["reliability"]
    said, found = (np.array([row[name] for row in bins]) for name in ("probability", "generated_share"))
    bounds = np.array([row["generated_share_interval"] or [row["generated_share"]] * 2 for row in bins])
    figure = new_figure(6, 7)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1, label="perfectly calibrated")
    errors = np.clip(np.stack([found - bounds[:, 0], bounds[:, 1] - found]), 0, None)
    axes.errorbar(
        said,
        found,
        yerr=errors,
        color=BLUE,
        marker="o",
        capsize=3,
        linewidth=1.4,
        label="bins, 95 % interval of the distance to it",
    )
    axes.set(ylabel="generated share, classes weighed equally", ylim=(-0.02, 1.02), xlim=(-0.02, 1.02))
    axes.set_title(f"{plain_text(title, longest=60)}\n{_error_text(report)}")
    axes.legend(loc="upper left", fontsize="small")
    _counts(below, bins, said)
    return png(figure)


def _error_text(report: Mapping[str, Any]) -> str:
    """The calibration error with its interval."""
    ends = report["calibration_error_interval"]
    between = "" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})"
    return f"calibration error, less chance: {report['calibration_error']:.3f}{between}"


def _counts(axes: Any, bins: list[dict[str, Any]], said: np.ndarray) -> None:
    """Images of each class in each bin, at the bin's probability."""
    styles = (("real", "s", "-", REAL_COLOR), ("generated", "^", "--", GENERATED_COLOR))
    for name, marker, dash, color in styles:
        counts = [row[f"{name}_images"] for row in bins]
        axes.plot(said, counts, dash, marker=marker, markersize=4, color=color, linewidth=1, label=f"{name} ({sum(counts)})")
    axes.set(xlabel="probability of being generated that is said, classes weighed equally", ylabel="images in the bin")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="0.9")
    axes.legend(fontsize="small")
    axes.axhline(0, color=BLACK, linewidth=0.8)
