"""The charts of a page: robustness, reliability, logits and the course of a training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from rdd.evaluation.robustness import CLEAN
from rdd.evaluation.scores import Scored
from rdd.report.charts import Axis, Chart, round_ticks
from rdd.report.numbers import auc_text

_SHARE = ((0.0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1.0, "1"))
_BINS = 30


def robustness_charts(robustness: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """A chart a curve, by its name: AUC with interval, the worst generator, and real images that are mistaken."""
    copies = robustness["copies"]
    return [
        (name, _curve_chart([copies[copy] for copy in (CLEAN, *of)], _short(of), name))
        for name, of in robustness["curves"].items()
    ]


def _curve_chart(rows: Sequence[Mapping[str, Any]], labels: Sequence[str], name: str) -> Markup:
    places = range(len(rows))
    ticks = [(float(place), label) for place, label in zip(places, (CLEAN, *labels), strict=True)]
    chart = Chart(Axis("from clean to the strongest copy", -0.4, len(rows) - 0.6, ticks), Axis("AUC; share", 0, 1, _SHARE))
    for key, style in (("false_positive_rate", "third"), ("worst_generator_auroc", "second"), ("auroc", "main")):
        points = [(float(place), row[key]) for place, row in zip(places, rows, strict=True)]
        chart.line(points, style)
        chart.dots(points, style)
    spans = [(float(place), row["auroc_interval"]) for place, row in zip(places, rows, strict=True) if row["auroc_interval"]]
    chart.whiskers(spans, "main")
    values = ", ".join(f"{row['copy']} {auc_text(row['auroc'])}" for row in rows)
    return chart.svg(f"AUC on the copies of {name}: {values}")


def _short(copies: Sequence[str]) -> list[str]:
    """Names of copies without the transform that all of them are of.

    Example:
        >>> _short(["jpeg 90", "jpeg 90, jpeg 50"]), _short(["blur 1", "jpeg 50"]), _short(["grayscale"])
        (['90', '90, 50'], ['blur 1', 'jpeg 50'], ['grayscale'])
    """
    parts = [copy.split(", ") for copy in copies]
    transforms = {part.split(" ")[0] for of in parts for part in of}
    if len(transforms) != 1 or not all(" " in part for of in parts for part in of):
        return list(copies)
    return [", ".join(part.split(" ", 1)[1] for part in of) for of in parts]


def reliability_chart(bins: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Share of generated images by the probability that the detector gives, with the line on which both are equal.

    Args:
        bins: as :func:`rdd.evaluation.reliability.reliability` makes them.

    Returns:
        The drawing; None without bins, as of a run of an earlier version.
    """
    if not bins:
        return None
    chart = Chart(Axis("probability of being generated", 0, 1, _SHARE), Axis("share of generated images", 0, 1, _SHARE))
    chart.line([(0, 0), (1, 1)], "chance")
    intervals = [(one["probability"], one["generated_share_interval"]) for one in bins]
    chart.whiskers([(said, bounds) for said, bounds in intervals if bounds], "main")
    points = [(one["probability"], one["generated_share"]) for one in bins]
    chart.dots(points, "main")
    pairs = ", ".join(f"{said:.2f}: {found:.2f}" for said, found in points)
    return chart.svg(f"Reliability diagram, probability and share of generated images: {pairs}")


def logits_chart(scored: Scored, threshold: float) -> Markup:
    """Histograms of the logits of real and of generated images, each class's bars summing to 1, and the threshold."""
    edges = np.histogram_bin_edges(np.append(scored.logits, threshold), bins=_BINS)
    shares = [np.histogram(scored.logits[scored.labels == label], edges)[0] for label in (0, 1)]
    heights = [share / max(1, share.sum()) for share in shares]
    top = max(0.05, float(max(height.max() for height in heights)))
    low, high = float(edges[0]), float(edges[-1])
    x = Axis("logit; larger: generated", low, high, round_ticks(low, high))
    chart = Chart(x, Axis("share of its class", 0, top, round_ticks(0, top)))
    for height, style in zip(heights, ("real", "generated"), strict=True):
        chart.bars(edges.tolist(), height.tolist(), style)
    chart.upright(threshold, "threshold")
    medians = [float(np.median(scored.logits[scored.labels == label])) for label in (0, 1)]
    return chart.svg(
        f"Histogram of logits: median {medians[0]:.2f} of real images, {medians[1]:.2f} of generated ones, threshold "
        f"{threshold:.2f}"
    )


def history_chart(history: Sequence[Mapping[str, float]]) -> Markup | None:
    """Validation AUC by epoch; None where there are not two epochs."""
    points = [(float(row["epoch"]), float(row["val/auroc"])) for row in history if math.isfinite(row["val/auroc"])]
    if len(points) < 2:
        return None
    lowest = min(value for _, value in points)
    low = math.floor(lowest * 100 - 1e-9) / 100 if lowest < 1 else 0.99
    first, last = points[0][0], points[-1][0]
    epochs = sorted({first, float(round((first + last) / 2)), last})
    x = Axis("epoch", first, last, [(epoch, f"{epoch:.0f}") for epoch in epochs])
    chart = Chart(x, Axis("validation AUC", low, 1, round_ticks(low, 1)))
    chart.line(points, "main")
    best = max(value for _, value in points)
    return chart.svg(f"Validation AUC by epoch: from {points[0][1]:.4f} to {points[-1][1]:.4f}, at best {best:.4f}")
